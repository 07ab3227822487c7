//! A clock that jumped is trusted again after it kept pace for an hour, or when the operator accepts it.

use serde_json::json;
use tollhouse::clock::Clock;
use tollhouse::domain::time::Timestamp;
use tollhouse::service::{clock, lifecycle};

use super::{
    DAY, MINUTE, assert_nothing_is_gone, clock_events, code, events, move_stored_time, reasons, rows,
    server_with_data, tick,
};
use crate::support::{Binary, NOW, Server};

#[tokio::test]
async fn i14_a_clock_that_kept_pace_for_an_hour_is_settled_and_retention_goes_on() {
    let (server, ..) = server_with_data().await;
    let before = rows(&server);
    // For example a server that was off for a year.
    let wall = NOW + 365 * 86_400_000;
    let server = Server::start_at(server.stop().await, wall, |_| ()).await;
    for _ in 0..59 {
        tick(&server).await;
        server.advance(MINUTE);
    }
    assert_nothing_is_gone(&before, &rows(&server));
    // A restart begins a new hour.
    clock::store_settled_time(&server.app).await.unwrap();
    let server = Server::start_at(server.stop().await, wall + 59 * 60_000, |_| ()).await;
    tick(&server).await;
    server.advance(59 * MINUTE);
    tick(&server).await;
    assert_nothing_is_gone(&before, &rows(&server));
    assert_eq!(reasons(&server.admin()).await, json!(["CLOCK_UNSETTLED"]));
    server.advance(MINUTE);
    tick(&server).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
    let after = rows(&server);
    for table in ["idempotency", "quotas", "usage_hourly", "verification_log"] {
        assert_eq!(after[table], 0, "{table}: {before:?} {after:?}");
    }
    let jumped = ("clock.jumped", "system");
    let expected = events(&[jumped, jumped, ("clock.settled", "system")]);
    assert_eq!(clock_events(&server.admin()).await, expected);
    // The settled time is stored, so that the next start begins there.
    clock::store_settled_time(&server.app).await.unwrap();
    let server = Server::start_at(server.stop().await, wall + 3 * 3_600_000, |_| ()).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
}

/// `tollhouse clock accept` on the data of this server, at this wall-clock time.
async fn accept_at(server: &Server, wall: Timestamp) {
    let operator = lifecycle::open(server.app.config.clone(), Clock::manual(wall)).await.unwrap();
    clock::accept(&operator).await.unwrap();
    lifecycle::close(&operator).await.unwrap();
}

#[tokio::test]
async fn i14_an_accepted_clock_is_settled_beside_a_running_server() {
    let (server, _, expiring) = server_with_data().await;
    let before = rows(&server);
    let wall = Timestamp::from_millis(NOW) + 365 * DAY;
    // The operator accepted another time earlier, which doesn't apply to this jump.
    accept_at(&server, Timestamp::from_millis(NOW)).await;
    server.clock.set(wall);
    tick(&server).await;
    assert_eq!(reasons(&server.admin()).await, json!(["CLOCK_UNSETTLED"]));
    assert_nothing_is_gone(&before, &rows(&server));
    accept_at(&server, wall).await;
    tick(&server).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
    assert_eq!(rows(&server)["usage_hourly"], 0);
    // The event of the first acceptance has expired.
    let expected = events(&[("clock.jumped", "system"), ("clock.accept", "cli")]);
    assert_eq!(clock_events(&server.admin()).await, expected);
    // The server stored the accepted time.
    let server = Server::start_at(server.stop().await, wall.as_millis(), |_| ()).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
    // After an accepted step back, keys expire by the clock again.
    server.clock.set(Timestamp::from_millis(NOW));
    assert_eq!(code(&server, &expiring).await, "EXPIRED");
    accept_at(&server, Timestamp::from_millis(NOW)).await;
    tick(&server).await;
    assert_eq!(reasons(&server.admin()).await, json!([]));
    assert_eq!(code(&server, &expiring).await, "VALID");
}

#[tokio::test]
async fn i14_the_binary_reports_a_jump_and_follows_clock_accept() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    assert_eq!(Binary::serve(dir.path()).terminate(), Some(0));
    for days in [-12 * 365, 1] {
        move_stored_time(dir.path(), days);
        let mut server = Binary::serve(dir.path());
        server.line_with("the clock jumped");
        assert_eq!(reasons(&server.admin()).await, json!(["CLOCK_UNSETTLED"]));
        let accepted = Binary::run(&["clock", "accept", "--data", data]);
        assert!(accepted.status.success(), "{accepted:?}");
        server.line_with("the operator accepted it");
        assert_eq!(reasons(&server.admin()).await, json!([]));
        let events = clock_events(&server.admin()).await;
        assert_eq!(events.last(), Some(&("clock.accept".to_owned(), "cli".to_owned())));
        assert_eq!(server.terminate(), Some(0));

        // Without a running server, the next start follows.
        move_stored_time(dir.path(), days);
        assert!(Binary::run(&["clock", "accept", "--data", data]).status.success());
        let mut server = Binary::serve(dir.path());
        assert_eq!(reasons(&server.admin()).await, json!([]));
        assert_eq!(server.terminate(), Some(0));
    }
}
