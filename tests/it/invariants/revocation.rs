//! Invariant 3 on the control plane: revocation is immediate, whatever is in flight.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tollhouse::domain::access::Caller;
use tollhouse::domain::action::Action;
use tollhouse::domain::fields::Json;
use tollhouse::domain::meter::{Cost, Meter};
use tollhouse::domain::verification::Outcome;
use tollhouse::error::Result;
use tollhouse::service::{RequestContext, api_keys, memberships, organizations, users};
use tollhouse::verify::verifier::{KeyToVerify, VerifyRequest};

use super::{DEADLINE, behind_a_proxy, call_from, until};
use crate::support::{ADMIN_KEY, Server};

/// A change by which a key loses access.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Withdrawal {
    Revoked,
    Disabled,
    Narrowed,
    BoundToOtherAddress,
    OrganizationSuspended,
    OrganizationDeleted,
    OwnerRemoved,
    OwnerSuspended,
    OwnerDeleted,
    RotatedWithoutGrace,
}

impl Withdrawal {
    const ALL: [Self; 10] = [
        Self::Revoked,
        Self::Disabled,
        Self::Narrowed,
        Self::BoundToOtherAddress,
        Self::OrganizationSuspended,
        Self::OrganizationDeleted,
        Self::OwnerRemoved,
        Self::OwnerSuspended,
        Self::OwnerDeleted,
        Self::RotatedWithoutGrace,
    ];

    /// The answer that a caller with the key gets afterwards.
    fn expected_answer(self) -> (u16, &'static str) {
        match self {
            Self::Narrowed => (403, "INSUFFICIENT_SCOPE"),
            Self::BoundToOtherAddress => (403, "IP_NOT_ALLOWED"),
            _ => (401, "INVALID_API_KEY"),
        }
    }

    /// The API call that performs it.
    fn request(self, key: &str) -> (Method, String, Option<Value>) {
        let key = format!("/api-keys/{key}");
        match self {
            Self::Revoked => (Method::DELETE, key, None),
            Self::Disabled => (Method::PATCH, key, Some(json!({"status": "disabled"}))),
            Self::Narrowed => (Method::PATCH, key, Some(json!({"scopes": ["workflows:read"]}))),
            Self::BoundToOtherAddress => (Method::PATCH, key, Some(json!({"allowed_ips": ["192.0.2.0/24"]}))),
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

    /// The service call that performs it. The future's first poll enqueues the change at the writer.
    fn begin(self, server: &Server, key: &str) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        let app = server.app.clone();
        let key = key.to_owned();
        let ctx = RequestContext::internal(&app, Caller::Operator, Action::RevokeApiKey).unwrap();
        let (_, _, body) = self.request(&key);
        let body = body.map(|body| Json::parse(body.to_string().as_bytes()).unwrap());
        Box::pin(async move {
            let org = "org_k".to_owned();
            let user = "user_k".to_owned();
            let operation = match (self, body) {
                (Self::Revoked, _) => api_keys::revoke(&ctx, key, None)?,
                (Self::RotatedWithoutGrace, body) => api_keys::rotate(&app, &ctx, key, body.as_ref()).await?,
                (Self::OrganizationSuspended, Some(body)) => {
                    organizations::update(&app, &ctx, org, &body).await?
                }
                (Self::OrganizationDeleted, _) => organizations::delete(&ctx, org),
                (Self::OwnerRemoved, _) => memberships::delete(&ctx, org, user),
                (Self::OwnerSuspended, Some(body)) => users::update(&ctx, user, &body)?,
                (Self::OwnerDeleted, _) => users::delete(&ctx, user),
                (_, Some(body)) => api_keys::update(&app, &ctx, key, &body).await?,
                (_, None) => unreachable!(),
            };
            operation.run(&app, &ctx).await
        })
    }
}

/// Creates organization `org_k`, its member `user_k` and a key owned by both; returns the key's id and secret.
async fn owned_key(server: &Server) -> (String, String) {
    server.organization("org_k").await;
    server.user("user_k").await;
    let member = json!({"user_id": "user_k", "role": "member"});
    assert_eq!(server.admin().post("/organizations/org_k/members", member).await.status, 201);
    let body = json!({"organization_id": "org_k", "user_id": "user_k", "name": "k", "scopes": ["admin:*"]});
    let (_, key) = server.key_with(body).await;
    (key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned())
}

/// Blocks the writer until the returned sender is dropped.
pub(super) async fn block_the_writer(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (blocked_tx, blocked_rx) = oneshot::channel();
    let released = Mutex::new(released);
    let blocked_tx = Mutex::new(Some(blocked_tx));
    let app = server.app.clone();
    tokio::spawn(async move {
        app.db
            .write(move |_| {
                let _ = blocked_tx.lock().unwrap().take().map(|blocked_tx| blocked_tx.send(()));
                let _ = released.lock().unwrap().recv();
                Ok(())
            })
            .await
    });
    blocked_rx.await.unwrap();
    release
}

/// A verification that waits for a lease is decided by the key as it is after the wait, and a refused one charges nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_verification_that_waits_for_a_lease_sees_a_withdrawal() {
    for withdrawal in Withdrawal::ALL {
        let server = Server::start().await;
        let (id, secret) = owned_key(&server).await;
        let limits = json!({"limits": [{"limit": 1000, "period": "total"}]});
        assert_eq!(server.admin().patch(&format!("/api-keys/{id}"), limits).await.status, 200);
        let verify = |dry_run| {
            let request = VerifyRequest {
                key: KeyToVerify::Secret(&secret),
                scopes: &["admin:users"],
                ip: Some(IpAddr::from([127, 0, 0, 1])),
                costs: &[Cost { meter: Meter::REQUESTS, units: 100 }],
                dry_run,
                caller_organization_id: None,
            };
            let app = &server.app;
            async move { app.verifier.verify(&request, app.clock.now(), app.clock.monotonic()).await.unwrap() }
        };
        // Afterwards all that is needed is in memory, but for the lease.
        let before = verify(true).await;
        assert_eq!((before.outcome, before.limits[0].remaining()), (Outcome::Valid, 1000), "{withdrawal:?}");
        server.app.catalogue().await.unwrap();
        let release = block_the_writer(&server).await;
        let mut verifying = Box::pin(verify(false));
        let is_pending = poll_fn(|cx| Poll::Ready(verifying.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "{withdrawal:?}: it must wait for its lease");
        let mut withdrawing = withdrawal.begin(&server, &id);
        let is_pending = poll_fn(|cx| Poll::Ready(withdrawing.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "{withdrawal:?}: the writer must be blocked");
        drop(release);
        withdrawing.await.unwrap();
        let verdict = verifying.await;
        assert!(!verdict.outcome.is_valid(), "{withdrawal:?}: {:?}", verdict.outcome);
        let remaining = verdict.limits.first().map(|status| status.remaining());
        assert!(remaining.is_none_or(|remaining| remaining == 1000), "{withdrawal:?}: {remaining:?}");
    }
}

/// A caller whose key loses access before its request's body has arrived is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_request_that_waits_for_its_body_sees_a_withdrawal() {
    for (path, media_type, body) in [
        ("/v1/keys/verify", "application/json", r#"{"key":"KEY"}"#),
        ("/v1/keys/verify-batch", "application/json", r#"{"verifications":[{"key":"KEY"}]}"#),
        ("/v1/keys/usage", "application/json", r#"{"key":"KEY","costs":{"requests":5}}"#),
        ("/v1/introspect", "application/x-www-form-urlencoded", "token=KEY"),
    ] {
        for is_known in [false, true] {
            let server = Server::start().await;
            let (_, key) = server.key(None, &["keys:verify"]).await;
            let secret = key["key"].as_str().unwrap();
            let (_, target) = server.key(None, &[]).await;
            let body = body.replace("KEY", target["key"].as_str().unwrap());
            let mut raw = server.raw().await;
            let head = |expect: &str| {
                format!(
                    "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {secret}\r\n\
                     content-type: {media_type}\r\ncontent-length: {}\r\n{expect}\r\n",
                    body.len()
                )
            };
            // The connection knows its caller from its first request.
            if is_known {
                raw.send(format!("{}{body}", head("")).as_bytes()).await;
                assert_eq!(raw.answer().await.unwrap().status, 200, "{path}");
            }
            raw.send(head("expect: 100-continue\r\n").as_bytes()).await;
            let answer = raw.answer().await.unwrap();
            assert_eq!(answer.status, 100, "{path}: the caller is authorized: {answer:?}");
            let id = key["id"].as_str().unwrap();
            let revoked = server.admin().post(&format!("/api-keys/{id}/revoke"), json!({})).await;
            assert_eq!(revoked.status, 200, "{revoked:?}");
            raw.send(body.as_bytes()).await;
            assert_eq!(raw.answer().await.unwrap().status, 401, "{path}, known: {is_known}");
        }
    }
}

/// A mutation that was authorized while its key was valid, and is queued behind the key's withdrawal, is
/// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_mutation_queued_behind_its_callers_revocation_is_refused() {
    for withdrawal in Withdrawal::ALL {
        let server = Server::start().await;
        let (id, secret) = owned_key(&server).await;
        let seq = server.credential(&secret).await.seq;
        let release = block_the_writer(&server).await;
        // A change of a key reads the scope catalogue first. With the catalogue cached, the first poll enqueues the
        // change.
        server.app.catalogue().await.unwrap();
        let mut withdrawing = withdrawal.begin(&server, &id);
        let is_pending = poll_fn(|cx| Poll::Ready(withdrawing.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "{withdrawal:?}: the writer must be blocked");

        let client = server.client(Some(&secret));
        let mutation = tokio::spawn(async move {
            client.post("/users", json!({"name": "too late", "email": "too-late@example.com"})).await
        });
        // The key is recorded as used once the mutation has been authorized; the withdrawal is still queued.
        until("the mutation is authorized", || server.app.unstored.last_uses.contains_key(&seq)).await;
        drop(release);
        withdrawing.await.unwrap();

        let answer = mutation.await.unwrap();
        assert_eq!(
            (answer.status, answer.code()),
            withdrawal.expected_answer(),
            "{withdrawal:?}: {answer:?}"
        );
        let users = server.admin().get("/users?email=too-late@example.com").await;
        assert_eq!(users.data(), &json!([]), "{withdrawal:?}");
    }
}

/// A mutation is refused if its key's withdrawal is answered while the mutation's body is still being sent.
#[tokio::test]
async fn i3_a_mutation_whose_body_arrives_after_its_callers_revocation_is_refused() {
    for withdrawal in Withdrawal::ALL {
        let server = Server::start().await;
        let (id, secret) = owned_key(&server).await;
        let seq = server.credential(&secret).await.seq;
        let (chunks, body) = tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(2);
        let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(body, |mut body| async {
            body.recv().await.map(|chunk| (chunk, body))
        }));
        let client = server.client(Some(&secret));
        let request = client.request(Method::POST, "/users").header("content-type", "application/json");
        let mutation = tokio::spawn(async move { client.send(request.body(body)).await });
        chunks.send(Ok(r#"{"name": "too late", "#)).await.unwrap();
        until("the mutation is authorized", || server.app.unstored.last_uses.contains_key(&seq)).await;

        let (method, path, body) = withdrawal.request(&id);
        assert_eq!(server.admin().call(method, &path, body).await.status, 200, "{withdrawal:?}");
        chunks.send(Ok(r#""email": "too-late@example.com"}"#)).await.unwrap();
        drop(chunks);

        let answer = mutation.await.unwrap();
        assert_eq!(
            (answer.status, answer.code()),
            withdrawal.expected_answer(),
            "{withdrawal:?}: {answer:?}"
        );
        let users = server.admin().get("/users?email=too-late@example.com").await;
        assert_eq!(users.data(), &json!([]), "{withdrawal:?}");
    }
}

/// After each withdrawal is answered, the next read and the next change are refused, although the key was
/// cached.
#[tokio::test]
async fn i3_every_withdrawal_ends_access_immediately() {
    for withdrawal in Withdrawal::ALL {
        let server = behind_a_proxy().await;
        let (id, secret) = owned_key(&server).await;
        let client = server.client(Some(&secret));
        let from = "203.0.113.9".parse().unwrap();
        assert_eq!(call_from(from, &client, Method::GET, "/users", None).await.status, 200);
        let (method, path, body) = withdrawal.request(&id);
        assert_eq!(server.admin().call(method, &path, body).await.status, 200, "{withdrawal:?}");
        let user = json!({"name": "n", "email": "n@example.com"});
        for (method, body) in [(Method::GET, None), (Method::POST, Some(&user))] {
            let answer = call_from(from, &client, method, "/users", body).await;
            assert_eq!(
                (answer.status, answer.code()),
                withdrawal.expected_answer(),
                "{withdrawal:?}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn i3_a_withdrawal_leaves_other_keys_valid() {
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

/// Callers run at full speed while the key is disabled and enabled in turns: a call that begins after a change
/// was answered, and ends before the next change begins, sees the new state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_under_load_no_call_after_a_change_sees_the_old_state() {
    const ROUNDS: usize = 60;
    let server = Server::start().await;
    let (id, secret) = owned_key(&server).await;
    // An odd epoch means that a change is under way. Half of an even epoch is the number of answered changes;
    // the key is valid if that number is even.
    let epoch = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let checked = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = server.client(Some(&secret));
            let (epoch, stop, checked) = (epoch.clone(), stop.clone(), checked.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let before = epoch.load(Ordering::SeqCst);
                    let answer = client.get("/whoami").await;
                    if before % 2 == 0 && epoch.load(Ordering::SeqCst) == before {
                        let expected = if before / 2 % 2 == 0 { 200 } else { 401 };
                        assert_eq!(answer.status, expected, "after {} changes", before / 2);
                        checked.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let admin = server.client(Some(ADMIN_KEY));
    for round in 0..ROUNDS {
        // Calls must observe each state before the next change.
        let enough = checked.load(Ordering::SeqCst) + 8;
        until("calls observed the state", || {
            checked.load(Ordering::SeqCst) >= enough || callers.iter().any(|caller| caller.is_finished())
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
    let enough = checked.load(Ordering::SeqCst) + 8;
    until("calls observed the revocation", || {
        checked.load(Ordering::SeqCst) >= enough || callers.iter().any(|caller| caller.is_finished())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        tokio::time::timeout(DEADLINE, caller).await.unwrap().unwrap();
    }
}
