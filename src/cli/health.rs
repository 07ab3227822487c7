//! `tollhouse health`: asks a running server whether it is ready, for the health checks of containers.

use super::output;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::http::health_client;

pub(crate) async fn run(config: &Config) -> Result<()> {
    if config.http.listen.port() == 0 {
        let message =
            "http.listen has port 0, so it is unknown on which port the server listens. Set --listen.";
        return Err(Error::new(Code::InvalidRequest, message));
    }
    let uses_tls = config.tls.cert.is_some();
    health_client::check_readiness(config.http.listen.local_address(), uses_tls).await?;
    output::print("ready")
}
