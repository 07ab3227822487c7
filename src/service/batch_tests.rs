use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::action::Action;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::service::lifecycle;

async fn open_app() -> (tempfile::TempDir, Arc<App>) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::load_defaults().unwrap();
    config.database.dir = dir.path().join("data");
    (dir, lifecycle::open(config, Clock::manual(Timestamp::from_millis(1_795_417_689_000))).await.unwrap())
}

fn internal_ctx(app: &App) -> Arc<RequestContext> {
    RequestContext::internal(app, Caller::System, Action::CreateScope).unwrap()
}

/// An operation that creates the scope `name` and then runs `then`.
fn test_operation(
    app: &App,
    name: &'static str,
    mut then: impl FnMut() -> Result<()> + Send + 'static,
) -> BatchOperation {
    let now = app.clock.now();
    let operation = Operation::new(move |tx, _| {
        let scope = Scope { scope: name.to_owned(), description: None, built_in: false };
        assert!(store::scopes::insert(tx, &scope, now)?);
        then()?;
        Ok((Answer::created(&scope)?, Vec::new()))
    });
    BatchOperation { ctx: internal_ctx(app), prepared: Ok(operation) }
}

async fn run(app: &App, atomic: bool, operations: Vec<BatchOperation>) -> Result<BatchOutcome> {
    let mut batch = Batch {
        ctx: internal_ctx(app),
        clock: app.clock.clone(),
        atomic,
        operations,
        memory: Arc::new(app.memory.control_plane.reserve(None, 0)?),
    };
    app.db.write_with_reserve(move |tx| batch.apply(tx, &Caller::System)).await
}

/// The scopes created by the test operations, as stored in the database.
async fn created_scopes(app: &App) -> Vec<&'static str> {
    let names = ["a:a", "b:b", "c:c"];
    let known = app.db.read(store::scopes::load_catalogue).await.unwrap();
    names.into_iter().filter(|name| known.is_known_grant(name)).collect()
}

fn codes(outcome: &BatchOutcome) -> Vec<Option<Code>> {
    outcome.results.iter().map(|result| result.as_ref().err().map(|error| error.code)).collect()
}

#[tokio::test]
async fn a_panic_fails_the_whole_atomic_batch_but_only_its_operation_of_an_independent_batch() {
    let (_dir, app) = open_app().await;
    let operations = || {
        vec![
            test_operation(&app, "a:a", || Ok(())),
            test_operation(&app, "b:b", || panic!("an operation's own fault")),
            test_operation(&app, "c:c", || Ok(())),
        ]
    };
    let failed = run(&app, true, operations()).await;
    assert_eq!(failed.err().map(|error| error.code), Some(Code::Internal));
    assert_eq!(created_scopes(&app).await, [""; 0]);

    let outcome = run(&app, false, operations()).await.unwrap();
    assert_eq!(codes(&outcome), [None, Some(Code::Internal), None]);
    assert_eq!(created_scopes(&app).await, ["a:a", "c:c"]);
}

#[tokio::test]
async fn a_full_disk_fails_the_whole_batch() {
    let (_dir, app) = open_app().await;
    for atomic in [true, false] {
        let full = || Err(Error::new(Code::StorageFull, "full"));
        let operations = vec![test_operation(&app, "a:a", || Ok(())), test_operation(&app, "b:b", full)];
        let failed = run(&app, atomic, operations).await;
        assert_eq!(failed.err().map(|error| error.code), Some(Code::StorageFull));
        assert_eq!(created_scopes(&app).await, [""; 0]);
    }
}

/// The writer may repeat a transaction; only the last run takes effect.
#[tokio::test]
async fn a_batch_can_be_applied_again_after_it_was_rolled_back() {
    let (_dir, app) = open_app().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let mut batch = Batch {
        ctx: internal_ctx(&app),
        clock: app.clock.clone(),
        atomic: true,
        operations: vec![test_operation(&app, "a:a", count)],
        memory: Arc::new(app.memory.control_plane.reserve(None, 0).unwrap()),
    };
    let twice = move |tx: &Tx<'_>| {
        let first = tx.run_in_savepoint(|tx| {
            batch.apply(tx, &Caller::System)?;
            Err::<(), _>(Error::internal("again"))
        })?;
        assert!(first.is_err());
        batch.apply(tx, &Caller::System).map(|outcome| codes(&outcome))
    };
    assert_eq!(app.db.write(twice).await.unwrap(), [None]);
    assert_eq!((runs.load(Ordering::SeqCst), created_scopes(&app).await), (2, vec!["a:a"]));
}

#[tokio::test]
async fn an_operation_that_could_not_be_prepared_fails_in_its_place() {
    let (_dir, app) = open_app().await;
    for atomic in [true, false] {
        let refused = BatchOperation {
            ctx: internal_ctx(&app),
            prepared: Err(Error::new(Code::InvalidRequest, "invalid")),
        };
        let operations = vec![test_operation(&app, "a:a", || Ok(())), refused];
        let outcome = run(&app, atomic, operations).await.unwrap();
        let expected = if atomic { Some(Code::FailedDependency) } else { None };
        assert_eq!(codes(&outcome), [expected, Some(Code::InvalidRequest)]);
        assert_eq!(outcome.failed_index, atomic.then_some(1));
        assert_eq!(created_scopes(&app).await, if atomic { vec![] } else { vec!["a:a"] });
    }
}
