use std::io::{Read as _, Write as _};
use std::sync::Mutex;

use super::*;

struct Fake {
    registry: Registry,
    health: Mutex<Result<(), String>>,
}

impl Observed for Fake {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn healthy(&self) -> Result<(), String> {
        self.health.lock().expect("no panic holds it").clone()
    }

    fn ready(&self) -> Result<(), String> {
        Err("waits for the store".into())
    }
}

fn fake() -> Arc<Fake> {
    let mut registry = registry();
    let jobs = Family::<Labels<1>, Counter>::default();
    registry.register("gannet_jobs", "Jobs that ended", jobs.clone());
    jobs.get_or_create(&[("kind", "trial")]).inc_by(3);
    let took = Histogram::new([0.1, 1.0]);
    registry.register_with_unit("gannet_compute", "Time", Unit::Seconds, took.clone());
    took.observe(0.5);
    registry.register("gannet_build", "The program", Info::new([("kind", "worker")]));
    Arc::new(Fake { registry, health: Mutex::new(Ok(())) })
}

async fn get(at: SocketAddr, head: &str) -> String {
    let head = head.to_owned();
    let talk = move || {
        let mut stream = std::net::TcpStream::connect(at).expect("it listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        answer
    };
    tokio::task::spawn_blocking(talk).await.expect("no panic")
}

async fn served() -> (Arc<Fake>, SocketAddr) {
    let fake = fake();
    let at = serve("127.0.0.1:0".parse().expect("an address"), fake.clone()).await.expect("a free port");
    (fake, at)
}

#[tokio::test]
async fn metrics_come_as_the_scraper_reads_them() {
    let (_fake, at) = served().await;
    let older = get(at, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(older.starts_with("HTTP/1.1 200 "), "{older}");
    assert!(older.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{older}");
    for expected in [
        "# HELP gannet_jobs_total Jobs that ended.\n# TYPE gannet_jobs_total counter\ngannet_jobs_total{kind=\"trial\"} 3\n",
        "# TYPE gannet_compute_seconds histogram\ngannet_compute_seconds_sum 0.5\ngannet_compute_seconds_count 1\n",
        "gannet_compute_seconds_bucket{le=\"1.0\"} 1\n",
        "# TYPE gannet_build_info gauge\ngannet_build_info{kind=\"worker\"} 1\n",
    ] {
        assert!(older.contains(expected), "{expected} in {older}");
    }
    assert!(!older.contains("# UNIT") && !older.contains("# EOF"), "{older}");
    if cfg!(target_os = "linux") {
        assert!(older.contains("\nprocess_resident_memory_bytes "), "{older}");
        assert!(older.contains("\nprocess_cpu_seconds_total "), "{older}");
    }

    let accept = "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    let open = get(at, &format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{accept}\r\n\r\n")).await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{open}");
    assert!(open.contains("# TYPE gannet_jobs counter\ngannet_jobs_total{kind=\"trial\"} 3\n"), "{open}");
    assert!(open.contains("# UNIT gannet_compute_seconds seconds\n") && open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test]
async fn health_is_told_with_its_reason() {
    let (fake, at) = served().await;
    let ready = get(at, "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("\r\n\r\nwaits for the store\n"), "{ready}");
    let asked = |at| async move { tokio::task::spawn_blocking(move || ask(Some(at))).await.expect("no panic") };
    asked(at).await.expect("healthy");
    asked(SocketAddr::new([0, 0, 0, 0].into(), at.port())).await.expect("also by the address that it listens at");
    *fake.health.lock().expect("no panic holds it") = Err("a slot is stuck".into());
    assert_eq!(asked(at).await.expect_err("not healthy").to_string(), "a slot is stuck");
    assert!(matches!(ask(None), Err(NotHealthy::Nowhere)));
    assert!(matches!(ask(Some(SocketAddr::new(at.ip(), 0))), Err(NotHealthy::Nowhere)));
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out_and_goes() {
    let (_fake, at) = served().await;
    let connect = |_| std::net::TcpStream::connect(at).expect("it listens");
    let mut silent: Vec<_> = (0..4 * MOST_CONNECTIONS).map(connect).collect();
    // Some begin to ask and do not go on.
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(b"GET /healthz HTT").expect("it reads");
    }
    let asked = tokio::task::spawn_blocking(move || ask(Some(at))).await.expect("no panic");
    asked.expect("answered while they are there");
    let all_go = move || {
        for mut stream in silent {
            stream.set_read_timeout(Some(12 * HEADERS_LIMIT)).expect("a time");
            let mut rest = Vec::new();
            // Closed or reset: it is gone either way.
            if let Err(error) = stream.read_to_end(&mut rest) {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            }
        }
    };
    tokio::task::spawn_blocking(all_go).await.expect("all are closed");
}

#[tokio::test]
async fn what_is_not_asked_properly_is_refused() {
    let (_fake, at) = served().await;
    for (head, expected) in [
        ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned(), "HTTP/1.1 405 "),
        ("GET /other HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "HTTP/1.1 404 "),
        (format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(LONGEST_HEADERS)), "HTTP/1.1 431 "),
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
    ] {
        let answer = get(at, &head).await;
        assert!(answer.starts_with(expected), "{expected} for {}: {answer}", head.lines().next().unwrap_or_default());
    }
}

#[test]
fn an_address_is_accepted_or_told_how_it_looks() {
    assert!(address("127.0.0.1:9464").is_ok() && address("[::]:0").is_ok());
    for wrong in ["9464", "localhost:9464", "127.0.0.1"] {
        assert!(address(wrong).expect_err("no address").contains("like 127.0.0.1:9464"), "{wrong}");
    }
}
