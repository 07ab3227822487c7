//! The listening sockets of the server.

use std::io;

use crate::config::ListenAddress;
use crate::error::{Error, Result};
use crate::http::conn::listeners::Listeners;

/// Listens on the address that this setting has.
pub(super) async fn bind(setting: &str, address: ListenAddress) -> Result<Listeners> {
    Listeners::bind(address).await.map_err(|error| Error::internal(describe_error(setting, address, &error)))
}

/// Says why the address can't be used, and how to choose another one.
fn describe_error(setting: &str, address: ListenAddress, error: &io::Error) -> String {
    let variable = format!("TOLLHOUSE_{}", setting.replace('.', "__").to_uppercase());
    let choose = match setting {
        "http.listen" => format!("Choose another address with --listen, http.listen or {variable}."),
        _ => format!("Choose another address with {setting} or {variable}."),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process, or by another Tollhouse. {choose}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{address} is not an address of this machine. {choose}")
        }
        io::ErrorKind::PermissionDenied => format!(
            "{address}: permission denied. A port below 1024 requires the capability CAP_NET_BIND_SERVICE. {choose}"
        ),
        _ => format!("{setting}: {address}: {error}"),
    }
}
