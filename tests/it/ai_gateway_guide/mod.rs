//! The gateway of `docs/guides/ai-gateway.md` and its commands, run as they are shown, between real clients, the real
//! program and a model whose events the tests send one by one.

mod desk;

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Answer, free_address, guide};
use desk::{Desk, GATEWAY, GUIDE, MODEL_KEY, MONTH, program, read_until, serve, soon};

/// The result that is shown for `usage.sh`.
const USAGE: &str = "usage.json";
/// The commands of the guide, in order.
const COMMANDS: [&str; 5] = ["setup.sh", "keys.sh", "start.sh", "ask.sh", "usage.sh"];
/// The address of the gateway that the guide shows.
const SHOWN: &str = "127.0.0.1:3000";

/// The guide's text with this address in place of the one that it shows.
fn at(address: SocketAddr, shown: &str, text: &str) -> String {
    let replaced = text.replace(shown, &address.to_string());
    assert_ne!(replaced, text, "{shown} is shown");
    replaced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_guide_show_what_was_spent() {
    let desk = Desk::new().await;
    for (name, _) in guide::blocks(GUIDE) {
        let has_test =
            name.is_empty() || COMMANDS.contains(&name.as_str()) || [GATEWAY, USAGE].contains(&name.as_str());
        assert!(has_test, "no test runs the block {name:?}");
    }
    let address = free_address();
    std::fs::write(desk.dir.path().join(GATEWAY), program(address)).unwrap();
    let keys = format!("CLIENT_KEY={} GATEWAY_KEY={}\n", desk.client_key, desk.gateway_key);
    let start = format!("trap 'kill $!' EXIT\n{}", guide::block(GUIDE, "start.sh"));
    let ask = at(address, SHOWN, &guide::block(GUIDE, "ask.sh"));
    let usage = guide::block(GUIDE, "usage.sh");
    // The client's response ends just before the report is sent.
    let recorded = format!("$({{ {usage} }} | tail -n 1)");
    let counted = format!("until [ \"{recorded}\" != \"$before\" ]; do :; done\n");
    let script = format!(
        "{keys}before={recorded}\n{start}{ask}printf '\\n=== end of events ===\\n'\n{counted}{usage}"
    );
    let model = async {
        let mut call = desk.model.accept().await;
        assert_eq!(call.body["stream_options"], json!({"include_usage": true}), "{}", call.body);
        assert_eq!(call.body["messages"][0]["content"], "Say hello.");
        let head = call.head.to_ascii_lowercase();
        assert!(head.contains(&format!("authorization: bearer {}", MODEL_KEY.to_lowercase())), "{head}");
        call.say("Hello").await;
        call.say(", world!").await;
        call.end(1250).await;
    };
    let (printed, ()) = tokio::join!(desk.run(&script), model);
    let (events, usage) = printed.split_once("\n=== end of events ===\n").unwrap();
    assert!(events.contains("\"Hello\"") && events.trim_end().ends_with("data: [DONE]"), "{events}");
    let values = |text: &str| -> Vec<Value> {
        serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect()
    };
    assert_eq!(values(usage), values(&guide::block(GUIDE, USAGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_is_charged_and_one_in_debt_waits() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.say("Hello").await;
    read_until(&mut response, "Hello").await;
    drop(response);
    // More than fits into the buffers of a connection.
    for _ in 0..8 {
        call.say(&"more ".repeat(200_000)).await;
    }
    assert_eq!(desk.month().await.1, MONTH, "nothing is known of the tokens yet");
    call.end(50_000).await;
    desk.wait_until_charged(50_000).await;

    // The key's 20,000 tokens a minute are exceeded by 30,000, which are refilled in 90 seconds.
    let (status, code, retry_after) = gateway.refusal(key).await;
    assert_eq!((status, code.as_str()), (429, "RATE_LIMITED"));
    let retry_after = retry_after.unwrap();
    assert!((30..=90).contains(&retry_after), "{retry_after}");
    assert_eq!(desk.month().await.1, MONTH - 50_000, "a refused request is charged nothing");

    // Another key of the organization has no debt. What it spends beyond the month is owed by all keys.
    let body = json!({"organization_id": "org_initech", "name": "n", "scopes": ["chat:write"]});
    let created = desk.tollhouse.admin().post("/api-keys", body).await;
    let other = created.data()["key"].as_str().unwrap();
    let (response, call) = tokio::join!(gateway.ask(Some(other)), desk.model.accept());
    call.end(MONTH).await;
    assert!(soon("the response ends", response.text()).await.unwrap().contains("[DONE]"));
    desk.wait_until_charged(MONTH).await;
    for key in [key, Some(other)] {
        let (status, code, retry_after) = gateway.refusal(key).await;
        assert_eq!((status, code.as_str()), (429, "QUOTA_EXCEEDED"));
        assert!(retry_after.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_repeated_until_it_is_acknowledged_before_the_gateway_exits() {
    let mut desk = Desk::new().await;
    let mut gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.say("Hello").await;
    read_until(&mut response, "Hello").await;
    assert_eq!(desk.tollhouse.terminate(), Some(0));
    call.end(1250).await;
    read_until(&mut response, "[DONE]").await;
    gateway.wait_for_line("not acknowledged: report ");
    assert_eq!(gateway.refusal(key).await.0, 503, "nothing is let through unchecked");
    let id = gateway.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    gateway.wait_for_line("not acknowledged: report ");
    assert_eq!(gateway.child.try_wait().unwrap(), None);

    desk.tollhouse = serve(&desk.dir, desk.address);
    let exit = tokio::task::spawn_blocking(move || gateway.child.wait().unwrap().code());
    assert_eq!(soon("the gateway exits", exit).await.unwrap(), Some(0));
    assert_eq!(desk.month().await, ("VALID".to_owned(), MONTH - 1250));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_permission_and_failing_models_are_answered_as_such() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let admin = desk.tollhouse.admin();
    let create = async |scope: &str| -> Answer {
        let body = json!({"organization_id": "org_initech", "name": "n", "scopes": [scope]});
        admin.post("/api-keys", body).await
    };
    let reader = create("workflows:read").await;
    let revoked = create("chat:write").await;
    let path = format!("/api-keys/{}", revoked.data()["id"].as_str().unwrap());
    assert_eq!(admin.delete(&path).await.status, 200);
    for (key, status, code) in [
        (None, 401, "UNAUTHENTICATED"),
        (Some("toll_nonsense"), 401, "NOT_FOUND"),
        (revoked.data()["key"].as_str(), 401, "REVOKED"),
        (reader.data()["key"].as_str(), 403, "INSUFFICIENT_SCOPE"),
    ] {
        assert_eq!(gateway.refusal(key).await, (status, code.to_owned(), None));
    }
    assert_eq!(desk.month().await.1, MONTH);

    // A response that breaks off: the events that arrived are charged.
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    for text in ["one", "two", "three"] {
        call.say(text).await;
        read_until(&mut response, text).await;
    }
    drop(call);
    assert!(soon("the response ends", response.text()).await.is_err(), "the client notices");
    gateway.wait_for_line("the model's response broke off");
    desk.wait_until_charged(3).await;
    drop(desk.model);
    let refused = gateway.refusal(key).await;
    assert_eq!(refused, (502, "MODEL_UNAVAILABLE".to_owned(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_every_form_are_counted_and_a_missing_usage_is_logged() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    // The space after the colon is optional.
    let (_response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.send("data:{\"choices\":[],\"usage\":{\"total_tokens\":70}}\n\ndata:[DONE]\n\n").await;
    call.finish().await;
    desk.wait_until_charged(70).await;

    let (_response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.say("one").await;
    call.say("two").await;
    call.send("data: [DONE]\n\n").await;
    call.finish().await;
    gateway.wait_for_line("the model's response states no usage: 2 events are reported");
    desk.wait_until_charged(72).await;

    // More than fits into the buffers of the connections: the gateway waits for the client.
    let (response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    let model = async {
        for _ in 0..8 {
            call.say(&"more ".repeat(200_000)).await;
        }
        call.end(28).await;
    };
    let (text, ()) = tokio::join!(response.text(), model);
    assert_eq!(text.unwrap().matches("more ").count(), 8 * 200_000);
    desk.wait_until_charged(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_as_such_and_charged_nothing() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    for (status, expected) in
        [(400, 400), (404, 400), (413, 400), (422, 400), (401, 502), (429, 502), (500, 502)]
    {
        let (refused, call) = tokio::join!(gateway.refusal(key), desk.model.accept_with(status));
        assert_eq!(refused, (expected, format!("MODEL_ANSWERED_{status}"), None));
        drop(call);
    }
    for (body, status) in [("{".to_owned(), 400), (format!("\"{}\"", "a".repeat(11 << 20)), 413)] {
        let request = reqwest::Client::new().post(&gateway.url).header("Content-Type", "application/json");
        let response = soon("the gateway answers", request.body(body).send()).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"error": {"code": "INVALID_BODY"}}));
    }
    assert_eq!(desk.month().await.1, MONTH);
}
