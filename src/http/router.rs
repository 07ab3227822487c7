//! Finds the route of a request.

use http::Method;
use percent_encoding::percent_decode_str;

use super::route::{Endpoint, Route};
use crate::error::{Code, Error, Result};

/// Some proxies append the client's own path to this one.
const FORWARD_AUTH_PATH: &str = Endpoint::ForwardAuth.path();

/// Matches methods and paths against the routes of a table.
pub(super) struct Router {
    /// The routes of each path, with their indexes in the table.
    paths: matchit::Router<Vec<(usize, &'static Route)>>,
    /// The route of [`Endpoint::ForwardAuth`].
    forward_auth: (usize, &'static Route),
}

/// The route that serves a request.
pub(super) struct RouteMatch {
    /// The route's index in the table.
    pub(super) route_index: usize,
    pub(super) route: &'static Route,
    /// The path's parameters, percent-decoded.
    pub(super) params: Vec<String>,
}

/// Why no route serves a request.
pub(super) struct UnmatchedRoute {
    /// `NOT_FOUND`, `METHOD_NOT_ALLOWED`, or `INVALID_REQUEST` for an invalid `Host`. Boxed, so that the result of
    /// every request's routing stays small.
    pub(super) error: Box<Error>,
    /// The methods that the path supports, for `Allow`.
    pub(super) allow: Option<String>,
}

impl Router {
    /// Creates the router of a table.
    ///
    /// # Errors
    /// `INTERNAL` if two routes conflict, or there is none for forward-auth.
    pub(super) fn new(routes: &'static [Route]) -> Result<Self> {
        let mut paths: matchit::Router<Vec<(usize, &'static Route)>> = matchit::Router::new();
        for (route_index, route) in routes.iter().enumerate() {
            match paths.at_mut(route.path) {
                // `at_mut` matches like a request; the entry must be for this exact path.
                Ok(entry) if entry.value.iter().any(|(_, other)| other.path == route.path) => {
                    entry.value.push((route_index, route));
                }
                _ => paths.insert(route.path, vec![(route_index, route)]).map_err(Error::internal)?,
            }
        }
        let forward_auth = routes.iter().enumerate().find(|(_, route)| route.path == FORWARD_AUTH_PATH);
        Ok(Self { paths, forward_auth: forward_auth.ok_or_else(|| Error::internal("no forward-auth"))? })
    }

    /// Finds the route of a request.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<RouteMatch, UnmatchedRoute> {
        if path.strip_prefix(FORWARD_AUTH_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            // Any path of the client may follow the prefix, even a path that the router couldn't match.
            let (route_index, route) = self.forward_auth;
            return Ok(RouteMatch { route_index, route, params: Vec::new() });
        }
        let unknown = || {
            let message = "This path doesn't exist; see /openapi.json for all paths.";
            UnmatchedRoute { error: Box::new(Error::new(Code::NotFound, message)), allow: None }
        };
        let matched = self.paths.at(path).map_err(|_| unknown())?;
        let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(&(route_index, route)) = matched.value.iter().find(|(_, route)| route.method == wanted)
        else {
            let mut methods: Vec<&str> = matched.value.iter().map(|(_, route)| route.method).collect();
            if methods.contains(&"GET") {
                methods.push("HEAD");
            }
            let allow = methods.join(", ");
            let message = match allow.rsplit_once(", ") {
                None => format!("Only {allow} is allowed here."),
                Some((others, last)) => format!("Only {others} and {last} are allowed here."),
            };
            let error = Box::new(Error::new(Code::MethodNotAllowed, message));
            return Err(UnmatchedRoute { error, allow: Some(allow) });
        };
        let decode = |value: &str| percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned());
        // A path parameter that isn't valid UTF-8 names no resource, so the response is a 404.
        let params: Option<Vec<_>> = matched.params.iter().map(|(_, value)| decode(value)).collect();
        Ok(RouteMatch { route_index, route, params: params.ok_or_else(unknown)? })
    }
}
