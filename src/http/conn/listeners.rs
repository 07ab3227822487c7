//! The listening sockets of one listener: one, or one for each loopback address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use crate::config::ListenAddress;

/// One or two sockets from which connections are accepted.
#[derive(Debug)]
pub struct Listeners {
    first: TcpListener,
    second: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(first: TcpListener) -> Self {
        Self { first, second: None }
    }
}

impl Listeners {
    /// Listens on the address. `localhost` is both loopback addresses, on the same port; on a machine without
    /// IPv6, only 127.0.0.1. Without IPv6, all addresses are those of IPv4.
    pub(crate) async fn bind(address: ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Address(address) => match TcpListener::bind(address).await {
                Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_unsupported(&error) => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await.map(Self::from)
                }
                bound => bound.map(Self::from),
            },
            ListenAddress::Localhost(port) => {
                let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
                let port = first.local_addr()?.port();
                let second = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
                    Err(error) if is_unsupported(&error) => None,
                    bound => Some(bound?),
                };
                Ok(Self { first, second })
            }
        }
    }

    /// The address of the first socket.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.first.local_addr()
    }

    /// Accepts the next connection of any socket. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.second {
            None => self.first.accept().await,
            Some(second) => tokio::select! {
                accepted = self.first.accept() => accepted,
                accepted = second.accept() => accepted,
            },
        }
    }
}

/// True if this machine has no IPv6, or no IPv6 address.
fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
