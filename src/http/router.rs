//! Finds the route of a request.

use http::Method;
use percent_encoding::percent_decode_str;

use super::route::{Dispatch, Endpoint, Route};
use crate::error::{Code, Error, Result};

/// Some proxies append the client's own path to this one.
const FORWARD_AUTH_PATH: &str = Endpoint::ForwardAuth.path();

/// Matches methods and paths against the routes of a table.
pub(super) struct Router {
    /// The routes of each path, with their indexes in the table.
    paths: matchit::Router<Vec<(usize, &'static Route)>>,
    /// The routes of the data plane, with their indexes in the table.
    data_plane: Vec<(usize, &'static Route, Endpoint)>,
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
    /// `INTERNAL` if two routes conflict.
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
        let endpoints = routes.iter().enumerate().filter_map(|(route_index, route)| match route.dispatch {
            Dispatch::DataPlane(endpoint) => Some((route_index, route, endpoint)),
            _ => None,
        });
        Ok(Self { paths, data_plane: endpoints.collect() })
    }

    /// Finds the endpoint of a request to the data plane, and the index of its route in the table. There are only a few,
    /// so comparing their paths takes less time than matching all patterns.
    pub(super) fn find_endpoint(&self, method: &Method, path: &str) -> Option<(usize, Endpoint)> {
        let is_forward_auth = |endpoint| {
            let rest = path.strip_prefix(FORWARD_AUTH_PATH);
            // Any path of the client may follow the prefix, even a path that the router couldn't match.
            endpoint == Endpoint::ForwardAuth
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut routes = self.data_plane.iter();
        let (route_index, _, endpoint) = *routes.find(|(_, route, endpoint)| {
            is_forward_auth(*endpoint) || route.path == path && route.method == method.as_str()
        })?;
        Some((route_index, endpoint))
    }

    /// Finds the route of a request to anything but the data plane.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<RouteMatch, UnmatchedRoute> {
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
