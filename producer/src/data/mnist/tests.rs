use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// Four small IDX files, uncompressed, in the order of [`NAMES`].
fn files() -> [Vec<u8>; 4] {
    let images = |rows: u8| {
        [&[0, 0, 8, 3, 0, 0, 0, rows, 0, 0, 0, 2, 0, 0, 0, 2], vec![rows; rows as usize * 4].as_slice()].concat()
    };
    let labels = |rows: u8| [&[0, 0, 8, 1, 0, 0, 0, rows], (0..rows).collect::<Vec<_>>().as_slice()].concat();
    [images(3), labels(3), images(2), labels(2)]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn origin(mirrors: &[String]) -> Origin {
    Origin { mirrors: mirrors.to_vec(), digests: files().map(|bytes| Digest::of(&bytes)) }
}

/// Answers `requests` requests on loopback with the files (or, `altered`, with others), then ends.
fn mirror(requests: usize, altered: bool) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}/mnist/", listener.local_addr().expect("an address"));
    let serve = move || {
        for _ in 0..requests {
            let (stream, _) = listener.accept().expect("a client");
            answer(&stream, altered);
        }
    };
    (address, std::thread::spawn(serve))
}

fn answer(stream: &TcpStream, altered: bool) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().expect("a request");
    lines.find(String::is_empty).expect("the end of the headers");
    let index = NAMES.iter().position(|name| request.contains(&format!("/mnist/{name}.gz "))).expect("a known file");
    let mut bytes = files()[index].clone();
    bytes.extend(altered.then_some(0));
    let body = gzip(&bytes);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let mut stream = stream;
    stream.write_all(&[head.as_bytes(), &body].concat()).expect("a client that listens");
}

/// An address on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}/mnist/", listener.local_addr().expect("an address"))
}

#[test]
fn a_download_happens_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("mnist");
    let (address, server) = mirror(4, false);
    let origin = origin(&[nobody(), address.clone()]);
    let beside = folder.path().join("none");
    let (table, source) = look_around(&beside, &cache, &origin);
    assert_eq!(source, Source::Downloaded { mirror: address, cache: cache.clone() });
    assert_eq!((table.shape.as_slice(), table.classes, table.splits["train"].labels.len()), (&[1, 2, 2][..], 3, 3));
    server.join().expect("four requests");
    let (again, source) = look_around(&beside, &cache, &origin);
    assert_eq!((again, source), (table, Source::Cached(cache)));
}

#[test]
fn an_altered_download_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, server) = mirror(1, true);
    let (table, source) = look_around(&folder.path().join("none"), &folder.path().join("mnist"), &origin(&[address]));
    server.join().expect("one request");
    let Source::Drawn { because } = &source else { panic!("{source}") };
    assert!(because.contains("train-images-idx3-ubyte.gz: has the sha256 "), "{because}");
    assert_eq!(table.splits["train"].labels.len(), 20_000);
    assert_eq!(fs::read_dir(folder.path().join("mnist")).expect("the cache").count(), 0, "nothing is kept");
}

#[test]
fn an_altered_cache_is_fetched_again() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, mut bytes) in NAMES.iter().zip(files()) {
        bytes.push(0);
        fs::write(folder.path().join(format!("{name}.gz")), gzip(&bytes)).expect("a file");
    }
    let (address, server) = mirror(4, false);
    let (_, source) = look_around(&folder.path().join("none"), folder.path(), &origin(std::slice::from_ref(&address)));
    server.join().expect("four requests");
    assert_eq!(source, Source::Downloaded { mirror: address, cache: folder.path().into() });
}

#[test]
fn a_folder_that_was_asked_for_must_be_readable() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = find(Some(folder.path()), folder.path()).expect_err("an empty folder");
    assert!(error.to_string().contains("has no `train-images-idx3-ubyte`"), "{error}");
    for (name, bytes) in NAMES.iter().zip(files()) {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let (table, source) = find(Some(folder.path()), folder.path()).expect("IDX files");
    assert_eq!((table.splits["test"].labels.as_slice(), source), (&[0, 1][..], Source::Given(folder.path().into())));
}

#[test]
fn the_files_beside_the_project_are_mnist() {
    // Tests run in the package's folder.
    let dir = Path::new("../../shared/data/mnist");
    if !dir.is_dir() {
        eprintln!("SKIPPED the_files_beside_the_project_are_mnist: no folder {}", dir.display());
        return;
    }
    let table = read_checked(dir, &Origin::public()).expect("MNIST");
    assert_eq!((table.shape.as_slice(), table.classes), (&[1, 28, 28][..], 10));
    assert_eq!([&table.splits["train"], &table.splits["test"]].map(|rows| rows.labels.len()), [60_000, 10_000]);
    assert_eq!(table.splits["train"].labels[..5], [5, 0, 4, 1, 9]);
}
