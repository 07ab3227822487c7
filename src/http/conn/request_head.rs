//! The head of a request, as the connection hands it to the API.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, Version};

use super::auth::ConnectionAuth;

/// The head of a request. The requests that warp sees have it in their extensions, so that filters don't clone its parts
/// one by one; they keep their method and URI, but have no headers.
#[derive(Clone, Debug)]
pub struct RequestHead(pub(super) Arc<RequestHeadParts>);

/// The peer, method, URI and headers of a request.
#[derive(Debug)]
pub struct RequestHeadParts {
    /// The other end of the connection. It may be a proxy, and an IPv4 address may be written as IPv6:
    /// see [`client_address`](crate::http::address::client_address).
    pub(crate) peer: SocketAddr,
    /// True if the connection uses TLS.
    pub(crate) is_tls: bool,
    /// The authentication state of the connection.
    pub(crate) connection_auth: Arc<ConnectionAuth>,
    pub(crate) version: Version,
    pub(crate) method: Method,
    /// The request's path and query.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// True if the request has a body. Taken from the body stream, because HTTP/2 requires no header that
    /// announces a body.
    pub(crate) has_body: bool,
    /// The length of the body if the client announced it (`Content-Length`), in bytes.
    pub(crate) declared_body_bytes: Option<u64>,
}

impl Deref for RequestHead {
    type Target = RequestHeadParts;

    fn deref(&self) -> &RequestHeadParts {
        &self.0
    }
}
