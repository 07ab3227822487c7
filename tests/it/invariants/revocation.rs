//! Invariant 3: what was revoked is over, whatever is in flight.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tollhouse::domain::access::Caller;
use tollhouse::domain::fields::Json;
use tollhouse::error::Result;
use tollhouse::service::{RequestContext, api_keys, memberships, organizations, scopes, users};

use super::{DEADLINE, behind_a_proxy, call_from, until};
use crate::support::{ADMIN_KEY, Server};

/// How a key, or what it depends on, comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Revoked,
    Disabled,
    Narrowed,
    MovedAway,
    OrganizationSuspended,
    OrganizationDeleted,
    OwnerRemoved,
    OwnerSuspended,
    OwnerDeleted,
    RotatedWithoutGrace,
}

impl End {
    const ALL: [Self; 10] = [
        Self::Revoked,
        Self::Disabled,
        Self::Narrowed,
        Self::MovedAway,
        Self::OrganizationSuspended,
        Self::OrganizationDeleted,
        Self::OwnerRemoved,
        Self::OwnerSuspended,
        Self::OwnerDeleted,
        Self::RotatedWithoutGrace,
    ];

    /// What the caller hears after it.
    fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Narrowed => (403, "INSUFFICIENT_SCOPE"),
            Self::MovedAway => (403, "IP_NOT_ALLOWED"),
            _ => (401, "INVALID_API_KEY"),
        }
    }

    /// The same, as a call of the API.
    fn call(self, key: &str) -> (Method, String, Option<Value>) {
        let key = format!("/api-keys/{key}");
        match self {
            Self::Revoked => (Method::DELETE, key, None),
            Self::Disabled => (Method::PATCH, key, Some(json!({"status": "disabled"}))),
            Self::Narrowed => (Method::PATCH, key, Some(json!({"scopes": ["workflows:read"]}))),
            Self::MovedAway => (Method::PATCH, key, Some(json!({"allowed_ips": ["192.0.2.0/24"]}))),
            Self::OrganizationSuspended => {
                (Method::PATCH, "/organizations/org_k".into(), Some(json!({"status": "suspended"})))
            }
            Self::OrganizationDeleted => (Method::DELETE, "/organizations/org_k".into(), None),
            Self::OwnerRemoved => (Method::DELETE, "/organizations/org_k/members/user_k".into(), None),
            Self::OwnerSuspended => {
                (Method::PATCH, "/users/user_k".into(), Some(json!({"status": "suspended"})))
            }
            Self::OwnerDeleted => (Method::DELETE, "/users/user_k".into(), None),
            Self::RotatedWithoutGrace => {
                (Method::POST, format!("{key}/rotate"), Some(json!({"grace_period_seconds": 0})))
            }
        }
    }

    /// The same, as the service does it. Its first poll puts it into the writer's queue.
    fn begin(self, server: &Server, key: &str) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        let (app, key) = (server.app.clone(), key.to_owned());
        let ctx = RequestContext::internal(&app, Caller::Operator, "test.end", "write").unwrap();
        let (_, _, body) = self.call(&key);
        let body = body.map(|body| Json::parse(body.to_string().as_bytes()).unwrap());
        Box::pin(async move {
            let (org, user) = ("org_k".to_owned(), "user_k".to_owned());
            match (self, body) {
                (Self::Revoked, _) => api_keys::revoke(&app, &ctx, key, None).await.map(drop),
                (Self::RotatedWithoutGrace, body) => {
                    api_keys::rotate(&app, &ctx, key, body.as_ref()).await.map(drop)
                }
                (Self::OrganizationSuspended, Some(body)) => {
                    organizations::update(&app, &ctx, org, &body).await.map(drop)
                }
                (Self::OrganizationDeleted, _) => organizations::delete(&app, &ctx, org).await.map(drop),
                (Self::OwnerRemoved, _) => memberships::delete(&app, &ctx, org, user).await.map(drop),
                (Self::OwnerSuspended, Some(body)) => users::update(&app, &ctx, user, &body).await.map(drop),
                (Self::OwnerDeleted, _) => users::delete(&app, &ctx, user).await.map(drop),
                (_, Some(body)) => api_keys::update(&app, &ctx, key, &body).await.map(drop),
                (_, None) => unreachable!(),
            }
        })
    }
}

/// An organization `org_k`, its member `user_k`, the key of both, and its secret.
async fn owned_key(server: &Server) -> (String, String) {
    server.organization("org_k").await;
    server.user("user_k").await;
    let member = json!({"user_id": "user_k", "role": "member"});
    assert_eq!(server.admin().post("/organizations/org_k/members", member).await.status, 201);
    let body = json!({"organization_id": "org_k", "user_id": "user_k", "name": "k", "scopes": ["admin:*"]});
    let (_, key) = server.key_with(body).await;
    (key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned())
}

/// The writer stands still until what this gives is dropped.
async fn block_the_writer(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (began, begun) = oneshot::channel();
    let (released, began) = (Mutex::new(released), Mutex::new(Some(began)));
    let app = server.app.clone();
    tokio::spawn(async move {
        app.db
            .write(move |_| {
                let _ = began.lock().unwrap().take().map(|began| began.send(()));
                let _ = released.lock().unwrap().recv();
                Ok(())
            })
            .await
    });
    begun.await.unwrap();
    release
}

/// A mutation that passed the gates while its key was good, and waits in the queue behind the key's
/// end, does not happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_mutation_in_the_queue_behind_its_callers_end_does_not_happen() {
    for end in End::ALL {
        let server = Server::start().await;
        let (id, secret) = owned_key(&server).await;
        let seq = server.credential(&secret).await.seq;
        let release = block_the_writer(&server).await;
        // A change of a key looks at the catalogue first; known, its first poll enqueues it.
        scopes::catalogue(&server.app).await.unwrap();
        let mut ending = end.begin(&server, &id);
        let polled = poll_fn(|context| Poll::Ready(ending.as_mut().poll(context).is_pending())).await;
        assert!(polled, "{end:?}: it must wait");

        let client = server.client(Some(&secret));
        let mutation = tokio::spawn(async move {
            client.post("/users", json!({"name": "too late", "email": "too-late@example.com"})).await
        });
        // Noted as used: it has passed the gates, while its end waits.
        until("the mutation passed the gates", || server.app.used.contains_key(&seq)).await;
        drop(release);
        ending.await.unwrap();

        let answer = mutation.await.unwrap();
        assert_eq!((answer.status, answer.code()), end.answer(), "{end:?}: {answer:?}");
        let found = server.admin().get("/users?email=too-late@example.com").await;
        assert_eq!(found.data(), &json!([]), "{end:?}");
    }
}

/// The same, with the end acknowledged while the mutation's body is still on its way.
#[tokio::test]
async fn i3_a_mutation_whose_body_comes_after_its_callers_end_does_not_happen() {
    for end in End::ALL {
        let server = Server::start().await;
        let (id, secret) = owned_key(&server).await;
        let seq = server.credential(&secret).await.seq;
        let (pieces, body) = tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(2);
        let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(body, |mut body| async {
            body.recv().await.map(|piece| (piece, body))
        }));
        let client = server.client(Some(&secret));
        let request = client.request(Method::POST, "/users").header("content-type", "application/json");
        let mutation = tokio::spawn(async move { client.send(request.body(body)).await });
        pieces.send(Ok(r#"{"name": "too late", "#)).await.unwrap();
        until("the mutation passed the gates", || server.app.used.contains_key(&seq)).await;

        let (method, path, body) = end.call(&id);
        assert_eq!(server.admin().call(method, &path, body).await.status, 200, "{end:?}");
        pieces.send(Ok(r#""email": "too-late@example.com"}"#)).await.unwrap();
        drop(pieces);

        let answer = mutation.await.unwrap();
        assert_eq!((answer.status, answer.code()), end.answer(), "{end:?}: {answer:?}");
        let found = server.admin().get("/users?email=too-late@example.com").await;
        assert_eq!(found.data(), &json!([]), "{end:?}");
    }
}

/// After the answer to each end, the very next look and change are refused, although the key was in
/// the cache a moment before.
#[tokio::test]
async fn i3_after_each_end_nothing_is_remembered() {
    for end in End::ALL {
        let server = behind_a_proxy().await;
        let (id, secret) = owned_key(&server).await;
        let (client, from) = (server.client(Some(&secret)), "203.0.113.9".parse().unwrap());
        assert_eq!(call_from(from, &client, Method::GET, "/users", None).await.status, 200);
        let (method, path, body) = end.call(&id);
        assert_eq!(server.admin().call(method, &path, body).await.status, 200, "{end:?}");
        let user = json!({"name": "n", "email": "n@example.com"});
        for (method, body) in [(Method::GET, None), (Method::POST, Some(&user))] {
            let answer = call_from(from, &client, method, "/users", body).await;
            assert_eq!((answer.status, answer.code()), end.answer(), "{end:?}: {answer:?}");
        }
    }
}

/// A change of something else does not end the key.
#[tokio::test]
async fn i3_what_ends_another_key_leaves_this_one_alone() {
    let server = Server::start().await;
    let (id, secret) = owned_key(&server).await;
    server.organization("org_other").await;
    server.user("user_other").await;
    let (_, other) = server.key(Some("org_other"), &["admin:keys"]).await;
    let admin = server.admin();
    for (path, body) in [
        (format!("/api-keys/{}", other["id"].as_str().unwrap()), json!({"status": "disabled"})),
        ("/organizations/org_other".to_owned(), json!({"status": "suspended"})),
        ("/users/user_other".to_owned(), json!({"status": "suspended"})),
        (format!("/api-keys/{id}"), json!({"name": "another name"})),
    ] {
        assert_eq!(admin.patch(&path, body).await.status, 200, "{path}");
        assert_eq!(server.client(Some(&secret)).get("/users").await.status, 200, "{path}");
    }
}

/// Callers at full speed while the key changes its state in turns: a call that began after a change was
/// acknowledged, and ended before the next began, gets the new answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_under_load_no_call_after_the_answer_gets_the_old_state() {
    const ROUNDS: usize = 60;
    let server = Server::start().await;
    let (id, secret) = owned_key(&server).await;
    // An odd epoch: a change is under way. An even one: half of it counts the acknowledged changes,
    // and the key is good when that is even.
    let (epoch, stop, judged) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = server.client(Some(&secret));
            let (epoch, stop, judged) = (epoch.clone(), stop.clone(), judged.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let before = epoch.load(Ordering::SeqCst);
                    let answer = client.get("/whoami").await;
                    if before % 2 == 0 && epoch.load(Ordering::SeqCst) == before {
                        let expected = if before / 2 % 2 == 0 { 200 } else { 401 };
                        assert_eq!(answer.status, expected, "after {} changes", before / 2);
                        judged.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let admin = server.client(Some(ADMIN_KEY));
    for round in 0..ROUNDS {
        // Each state is seen before it is changed again.
        let seen = judged.load(Ordering::SeqCst) + 8;
        until("the state is seen", || {
            judged.load(Ordering::SeqCst) >= seen || callers.iter().any(|caller| caller.is_finished())
        })
        .await;
        let (path, on, off) = match round / 2 % 3 {
            0 => (format!("/api-keys/{id}"), "active", "disabled"),
            1 => ("/organizations/org_k".to_owned(), "active", "suspended"),
            _ => ("/users/user_k".to_owned(), "active", "suspended"),
        };
        let status = if round % 2 == 0 { off } else { on };
        epoch.fetch_add(1, Ordering::SeqCst);
        assert_eq!(admin.patch(&path, json!({"status": status})).await.status, 200);
        epoch.fetch_add(1, Ordering::SeqCst);
    }
    epoch.fetch_add(1, Ordering::SeqCst);
    assert_eq!(admin.delete(&format!("/api-keys/{id}")).await.status, 200);
    epoch.fetch_add(1, Ordering::SeqCst);
    let seen = judged.load(Ordering::SeqCst) + 8;
    until("the end is seen", || {
        judged.load(Ordering::SeqCst) >= seen || callers.iter().any(|c| c.is_finished())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        tokio::time::timeout(DEADLINE, caller).await.unwrap().unwrap();
    }
}
