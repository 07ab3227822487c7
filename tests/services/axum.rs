//! Lists workflows for clients whose API key may read them.

use std::env;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Tollhouse {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// What the verification says about the client's key.
#[derive(Clone, Deserialize)]
struct Caller {
    valid: bool,
    code: String,
    organization_id: Option<String>,
    retry_after_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Verification {
    data: Caller,
}

impl Tollhouse {
    fn from_env() -> Result<Self, Box<dyn Error>> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .pool_idle_timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { http, url: env::var("TOLLHOUSE_URL")?, key: env::var("TOLLHOUSE_KEY")? })
    }

    async fn verify(&self, key: &str, scopes: &[&str], ip: IpAddr, cost: u32) -> reqwest::Result<Caller> {
        let body = json!({"key": key, "scopes": scopes, "ip": ip, "cost": cost});
        let url = format!("{}/v1/keys/verify", self.url);
        let response = self.http.post(url).bearer_auth(&self.key).json(&body).send().await?;
        Ok(response.error_for_status()?.json::<Verification>().await?.data)
    }
}

/// What a route requires of the client's key.
#[derive(Clone)]
struct Needs {
    tollhouse: Tollhouse,
    scopes: &'static [&'static str],
    cost: u32,
}

async fn check(
    State(needs): State<Needs>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(key) = bearer(request.headers()).map(str::to_owned) else {
        return refuse(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", None);
    };
    let Ok(caller) = needs.tollhouse.verify(&key, needs.scopes, client.ip(), needs.cost).await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", None);
    };
    if !caller.valid {
        let status = match caller.code.as_str() {
            "ORGANIZATION_SUSPENDED" | "OWNER_INACTIVE" | "IP_NOT_ALLOWED" | "INSUFFICIENT_SCOPE" => {
                StatusCode::FORBIDDEN
            }
            "QUOTA_EXCEEDED" | "RATE_LIMITED" => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::UNAUTHORIZED,
        };
        return refuse(status, &caller.code, caller.retry_after_seconds);
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| key.trim())
}

fn refuse(status: StatusCode, code: &str, retry_after: Option<u64>) -> Response {
    let mut response = (status, Json(json!({"code": code}))).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn list_workflows(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({"organization": caller.organization_id, "workflows": []}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let tollhouse = Tollhouse::from_env()?;
    let needs = |scopes, cost| {
        middleware::from_fn_with_state(Needs { tollhouse: tollhouse.clone(), scopes, cost }, check)
    };
    let app = Router::new()
        .route("/workflows", get(list_workflows).layer(needs(&["workflows:read"], 1)))
        .route("/workflows/export", get(list_workflows).layer(needs(&["workflows:read"], 10)));
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
