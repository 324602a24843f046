//! Numbers for Prometheus: counters and histograms that live in memory, and the text in which
//! they are told.
//!
//! What may be a label is a word out of a fixed set, or the name of a record that people make; no
//! label holds an id of a task, an address, or anything secret.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Upper ends of what is timed, in seconds; beyond the last is one more.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Those who may read at a time: a scraper is one.
const READERS: usize = 16;
/// How long one may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long something took, often.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// A text as Prometheus reads it.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    told: Option<&'static str>,
}

/// Words beside a number: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    fn head(&mut self, name: &'static str, kind: &str, help: &str) {
        if self.told != Some(name) {
            self.told = Some(name);
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
    }

    fn line(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(name);
        let mut sign = '{';
        for (label, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{sign}{label}=\"{value}\"");
            sign = ',';
        }
        if sign == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A number that goes up and down. Those of one name follow each other.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        self.head(name, "gauge", help);
        self.line(name, labels, value);
    }

    /// A number that only grows. Those of one name follow each other.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        self.head(name, "counter", help);
        self.line(name, labels, value);
    }

    /// How long something took. Those of one name follow each other.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        histogram: &Histogram,
    ) {
        self.head(name, "histogram", help);
        let mut all = 0;
        let ends = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bucket, end) in histogram.buckets.iter().zip(ends) {
            all += bucket.load(Ordering::Relaxed);
            let labels = [labels, &[("le", end.as_str())]].concat();
            self.line(&format!("{name}_bucket"), &labels, all as f64);
        }
        let sum = histogram.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        self.line(&format!("{name}_sum"), labels, sum);
        self.line(&format!("{name}_count"), labels, all as f64);
    }

    /// What this process uses: memory, processor, open files.
    pub fn process(&mut self) {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}"));
        let status = read("status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        if let Some(resident) = kib("VmRSS:") {
            let name = "process_resident_memory_bytes";
            self.gauge(name, "Memory in use.", &[], resident * 1024.0);
        }
        // Behind the name, which is in parentheses, the 12th and 13th are ticks of 10 ms.
        let stat = read("stat").unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (ticks(11), ticks(12)) {
            let name = "process_cpu_seconds_total";
            self.counter(name, "Processor time used.", &[], (user + system) / 100.0);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let name = "process_open_fds";
            self.gauge(name, "Open file descriptors.", &[], open.count() as f64);
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Makes the text that is told now.
pub type Tell = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// Binds a listener for whoever reads metrics.
///
/// # Errors
/// When there is no such address here, or somebody else has it.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers `GET /metrics`, without encryption and to everybody who reaches it, until it is
/// dropped. It tells numbers and names, and changes nothing.
pub async fn serve(listener: TcpListener, tell: Tell) {
    let places = Arc::new(Semaphore::new(READERS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let tell = Arc::clone(&tell);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let tell = Arc::clone(&tell);
                async move { Ok::<_, std::convert::Infallible>(answer(&request, tell).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

async fn answer(request: &Request<Incoming>, tell: Tell) -> Response<Full<Bytes>> {
    let wanted = (request.method(), request.uri().path());
    if wanted != (&Method::GET, "/metrics") {
        let mut response = Response::new(Full::from("only GET /metrics is known here\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::from(tell().await));
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_explained_once_and_words_cannot_break_out() {
        let mut text = Text::default();
        text.gauge("x", "Ex.", &[("a", "b\"c\\d\ne")], 1.0);
        text.gauge("x", "Ex.", &[], 2.5);
        let told = text.finish();
        assert_eq!(told, "# HELP x Ex.\n# TYPE x gauge\nx{a=\"b\\\"c\\\\d\\ne\"} 1\nx 2.5\n");
    }

    #[test]
    fn buckets_of_a_histogram_hold_all_below() {
        let histogram = Histogram::default();
        for ms in [1, 30, 30, 60_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut text = Text::default();
        text.histogram("t", "Time.", &[("k", "v")], &histogram);
        let told = text.finish();
        for line in [
            "t_bucket{k=\"v\",le=\"0.001\"} 1",
            "t_bucket{k=\"v\",le=\"0.025\"} 1",
            "t_bucket{k=\"v\",le=\"0.05\"} 3",
            "t_bucket{k=\"v\",le=\"10\"} 3",
            "t_bucket{k=\"v\",le=\"+Inf\"} 4",
            "t_sum{k=\"v\"} 60.061",
            "t_count{k=\"v\"} 4",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} in {told}");
        }
    }

    #[test]
    fn a_process_tells_its_memory() {
        let mut text = Text::default();
        text.process();
        assert!(text.finish().contains("process_resident_memory_bytes "));
    }
}
