//! `/healthz` and `/readyz` for service managers and load balancers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections beyond this many wait.
const MAX_CONNECTIONS: usize = 16;

/// A client that has not sent its request by then is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the endpoints answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Says whether the program does its work at present.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n"),
            (&Method::GET | &Method::HEAD, "/readyz") if self.ready.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ready\n")
            }
            (&Method::GET | &Method::HEAD, "/readyz") => {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
            _ => (StatusCode::NOT_FOUND, "there is /healthz and /readyz\n"),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    }
}

/// A bound but not yet running server.
#[derive(Debug)]
pub(crate) struct HealthServer {
    listener: TcpListener,
    health: Health,
}

impl HealthServer {
    /// Binds the address.
    pub(crate) async fn bind(address: SocketAddr, health: Health) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for health checks, choose another --health-listen")
        })?;
        Ok(Self { listener, health })
    }

    /// Answers requests for ever. To be spawned.
    pub(crate) async fn serve(self) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::debug!(error = %e, "health check was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let health = self.health.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = health.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(e) = connection.await {
                    tracing::debug!(error = %e, "health check broke off");
                }
                drop(slot);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_what_the_program_says() {
        let health = Health::default();
        let server = HealthServer::bind(([127, 0, 0, 1], 0).into(), health.clone()).await.unwrap();
        let address = server.listener.local_addr().unwrap();
        tokio::spawn(server.serve());
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_ready(true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
    }
}
