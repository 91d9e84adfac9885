//! `/healthz` and `/readyz` for service managers and load balancers, `/metrics` for Prometheus.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
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
#[derive(Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
    metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

impl Health {
    /// Says whether the program does its work at present.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Answers `/metrics` too, with what `metrics` writes (Prometheus' text format 0.0.4). To be called before the
    /// server gets its clone.
    #[must_use]
    pub fn with_metrics(mut self, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Arc::new(metrics));
        self
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if let (&Method::GET | &Method::HEAD, "/metrics", Some(metrics)) =
            (request.method(), path, &self.metrics)
        {
            let mut response = Response::new(Full::from(metrics()));
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            return response;
        }
        let (status, text) = match (request.method(), path) {
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

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// A bound but not yet running server.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
    health: Health,
}

impl HealthServer {
    /// Binds the address.
    ///
    /// # Errors
    /// If it is in use or not one of this host's.
    pub async fn bind(address: SocketAddr, health: Health) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for health checks, choose another --health-listen")
        })?;
        Ok(Self { listener, health })
    }

    /// Answers requests for ever. To be spawned.
    pub async fn serve(self) {
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
        for path in ["/other", "/metrics"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 404"));
        }
    }

    #[tokio::test]
    async fn metrics_are_written_anew_for_each_request() {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let health = Health::default()
            .with_metrics(move || format!("asked {}\n", count.fetch_add(1, Ordering::Relaxed)));
        let server = HealthServer::bind(([127, 0, 0, 1], 0).into(), health).await.unwrap();
        let address = server.listener.local_addr().unwrap();
        tokio::spawn(server.serve());
        for n in 0..2 {
            let answer = get(address, "/metrics").await;
            assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
            assert!(answer.ends_with(&format!("asked {n}\n")), "{answer}");
        }
    }
}
