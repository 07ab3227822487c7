use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::access::Caller;
use crate::domain::time::Timestamp;
use crate::service::within;

async fn open_app() -> (tempfile::TempDir, Arc<App>) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::load_defaults().unwrap();
    config.database.dir = dir.path().join("data");
    (dir, App::open(config, Clock::manual(Timestamp::from_millis(1_795_417_689_000))).await.unwrap())
}

fn internal_ctx(app: &App) -> Arc<RequestContext> {
    RequestContext::internal(app, Caller::System, "scope.create", "write").unwrap()
}

/// An operation that creates the scope `name` and then runs `then`.
fn test_operation(app: &App, name: &str, then: fn() -> Result<()>) -> BatchOperation<()> {
    let name = name.to_owned();
    let clock = app.clock.clone();
    let handler: Handler<()> = Box::new(move |ctx| {
        let (name, now) = (name.clone(), clock.now());
        Box::pin(async move {
            let seat = ctx.seat.clone().unwrap();
            seat.run(move |tx| {
                let scope = crate::domain::scope::Scope { scope: name, description: None, built_in: false };
                assert!(store::scopes::insert(tx, &scope, now)?);
                Ok(())
            })
            .await?;
            then()
        })
    });
    BatchOperation { ctx: internal_ctx(app), handler }
}

/// The scopes created by the test operations, as stored in the database.
async fn created_scopes(app: &App) -> Vec<&'static str> {
    let names = ["a:a", "b:b", "c:c"];
    let known = app.db.read(store::scopes::load_catalogue).await.unwrap();
    names.into_iter().filter(|name| known.is_known_grant(name)).collect()
}

fn succeed() -> Result<()> {
    Ok(())
}

fn panic_in_operation() -> Result<()> {
    panic!("an operation's own fault")
}

#[tokio::test]
async fn a_panic_fails_the_whole_atomic_batch_but_only_its_operation_of_an_independent_batch() {
    let (_dir, app) = open_app().await;
    let operations = || {
        vec![
            test_operation(&app, "a:a", succeed),
            test_operation(&app, "b:b", panic_in_operation),
            test_operation(&app, "c:c", succeed),
        ]
    };
    let failed = run(&app, &internal_ctx(&app), true, operations()).await;
    assert_eq!(failed.err().map(|error| error.code), Some(Code::Internal));
    assert_eq!(created_scopes(&app).await, [""; 0]);

    let outcome = run(&app, &internal_ctx(&app), false, operations()).await.unwrap();
    let codes: Vec<_> =
        outcome.results.iter().map(|result| result.as_ref().err().map(|error| error.code)).collect();
    assert_eq!(codes, [None, Some(Code::Internal), None]);
    assert_eq!(created_scopes(&app).await, ["a:a", "c:c"]);
}

#[tokio::test]
async fn a_full_disk_fails_the_whole_batch() {
    let (_dir, app) = open_app().await;
    let full = || Err(Error::new(Code::StorageFull, "full"));
    for atomic in [true, false] {
        let operations = vec![test_operation(&app, "a:a", succeed), test_operation(&app, "b:b", full)];
        let failed = run(&app, &internal_ctx(&app), atomic, operations).await;
        assert_eq!(failed.err().map(|error| error.code), Some(Code::StorageFull));
        assert_eq!(created_scopes(&app).await, [""; 0]);
    }
}

/// The writer may repeat a transaction, and then runs its handlers again; only the last run takes effect.
#[tokio::test]
async fn a_batch_handler_can_run_twice_in_one_transaction() {
    let (_dir, app) = open_app().await;
    let operation_a = test_operation(&app, "a:a", succeed);
    let clock = app.clock.clone();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let twice = move |tx: &Tx<'_>| {
        let first = tx.run_in_savepoint(|tx| {
            within::run(tx, &clock, &operation_a.ctx, &operation_a.handler)?;
            counted.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(Error::internal("again"))
        })?;
        assert!(first.is_err());
        within::run(tx, &clock, &operation_a.ctx, &operation_a.handler)
    };
    app.db.write(twice).await.unwrap();
    assert_eq!((runs.load(Ordering::SeqCst), created_scopes(&app).await), (1, vec!["a:a"]));
}

/// Nothing would wake such a handler on the writer's thread, and all other changes would wait for it.
#[tokio::test]
async fn a_handler_that_waits_for_more_than_its_transaction_fails() {
    let (_dir, app) = open_app().await;
    let handler: Handler<()> = Box::new(|_| Box::pin(std::future::pending()));
    let outcome =
        run(&app, &internal_ctx(&app), false, vec![BatchOperation { ctx: internal_ctx(&app), handler }])
            .await
            .unwrap();
    let error = outcome.results[0].as_ref().unwrap_err();
    assert!(error.cause.as_ref().unwrap().contains("waits for more"), "{error}");
}
