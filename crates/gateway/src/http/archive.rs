//! All models, or all layers, of a run in one zip, written while it is sent.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::hex_sha256;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::downloads::unchanged;
use crate::app::{App, blocking};
use crate::identity::Identity;
use crate::problem::Problem;
use crate::store::{FileKind, Objects, Run, StoreError};

/// Bytes that are sent at a time.
const PIECE: usize = 64 << 10;

/// Pieces that wait for a slow client at most.
const PIECES: usize = 4;

/// Download all models of a run in one zip
#[utoipa::path(
    get, path = "/v1/runs/{id}/models.zip", operation_id = "all_models", tag = "runs",
    params(
        ("id" = i64, Path, description = "The run's number"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag that is known"),
    ),
    responses(
        (status = 200, description = "The models", content_type = "application/zip",
            body = Vec<u8>, headers(("ETag" = String))),
        (status = 304, description = "They are those that are known"),
        (status = 404, description = "There are none (yet)"),
    )
)]
pub(super) async fn models(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send(&app, &run, FileKind::Model, &headers).await
}

/// Download the layers that a run has found, with the image, as a page's files in one zip
#[utoipa::path(
    get, path = "/v1/runs/{id}/layers.zip", operation_id = "all_layers", tag = "runs",
    params(("id" = i64, Path, description = "The number of a run that applied models")),
    responses(
        (status = 200, description = "The layers", content_type = "application/zip",
            body = Vec<u8>, headers(("ETag" = String))),
        (status = 304, description = "They are those that are known"),
        (status = 404, description = "There are none (yet)"),
    )
)]
pub(super) async fn layers(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = identity.run(&app, &id).await?;
    send(&app, &run, FileKind::Layer, &headers).await
}

async fn send(
    app: &App,
    run: &Run,
    kind: FileKind,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let name = kind.name();
    let wanted = run.results.iter().filter(|result| result.kind == kind);
    let mut files: Vec<(String, String)> =
        wanted.map(|result| (result.name.clone(), result.object.sha256.clone())).collect();
    if files.is_empty() {
        let when = if run.status.state.is_end() { "" } else { " yet: the run is not over" };
        return Err(Problem::missing(format!("{name} of run {}{when}", run.id)));
    }
    if let (FileKind::Layer, Some(image)) = (kind, &run.image) {
        files.push((image.file.clone(), image.object.sha256.clone()));
    }
    // The same files are the same zip, byte for byte.
    let tag = format!("\"{}\"", hex_sha256(format!("{files:?}").as_bytes()));
    if let Some(unchanged) = unchanged(headers, &tag) {
        return Ok(unchanged);
    }
    let pieces = zipped(app, files, turn(app)?).await?;
    let saved = format!("attachment; filename=\"run-{}-{name}s.zip\"", run.id);
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_DISPOSITION, saved),
        (header::ETAG, tag),
    ];
    Ok((headers, pieces).into_response())
}

/// A place among the zips that are sent now, each of which keeps a thread as long as its client
/// takes.
///
/// # Errors
/// When all are taken.
fn turn(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&app.zips).try_acquire_owned().map_err(|_| {
        let what = "too many zips are being fetched at the moment; ask for it again in a minute, \
            or fetch the files one by one";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).again_in(60)
    })
}

/// A zip of objects, by name and SHA-256, as a body that is written while it is sent. Each is
/// opened when its turn comes; the first one before anything is promised.
///
/// # Errors
/// When the first one can't be read.
pub(super) async fn zipped(
    app: &App,
    files: Vec<(String, String)>,
    turn: OwnedSemaphorePermit,
) -> Result<Body, Problem> {
    let objects = app.store.objects().clone();
    let mut files = files.into_iter();
    let first = files.next();
    let (first, objects) = blocking(move || {
        let first = first.map(|file| open(&objects, file)).transpose();
        (first, objects)
    })
    .await?;
    let opened = first?.into_iter().map(Ok).chain(files.map(move |file| open(&objects, file)));
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        write(opened, sender);
        drop(turn);
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok(Body::from_stream(pieces))
}

/// A file of the zip, opened.
type Opened = Result<(String, File), StoreError>;

/// Opens an object by its SHA-256, with its name beside it.
fn open(objects: &Objects, (name, sha256): (String, String)) -> Opened {
    let file = objects.open(&sha256);
    let failed = |source| StoreError::File { path: sha256.into(), what: "can't be read", source };
    file.map(|file| (name, file)).map_err(failed)
}

/// Writes the zip into the channel. An error ends the answer before its end, which the client sees.
fn write(files: impl Iterator<Item = Opened>, sender: mpsc::Sender<io::Result<Bytes>>) {
    let pieces = Pieces { sender: sender.clone(), piece: Vec::with_capacity(PIECE) };
    if let Err(error) = zip(files, pieces)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        warn!("a zip ended before its end: {error}");
        let _ = sender.blocking_send(Err(error)); // nobody listens any more: nobody has to be told
    }
}

/// Without compression: weights don't get smaller, and PNGs are compressed.
fn zip(files: impl Iterator<Item = Opened>, pieces: Pieces) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o644);
    let mut zip = ZipWriter::new_stream(pieces);
    for opened in files {
        let (name, mut file) = opened.map_err(|error| io::Error::other(error.to_string()))?;
        zip.start_file(name, options)?;
        io::copy(&mut file, &mut zip)?;
    }
    zip.finish()?.into_inner().flush()
}

/// Sends what is written, piece by piece, and waits while the client is slow.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(Bytes::from(piece)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::app::Limits;

    #[test]
    fn a_zip_comes_in_pieces_and_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..3 * PIECE + 7).map(|i| (i % 251) as u8).collect();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            (name.to_owned(), File::open(path).unwrap())
        };
        let files = vec![file("Model 0.hdf5", &long), file("empty", b"")];
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let writing = std::thread::spawn(move || write(files.into_iter().map(Ok), sender));
        let mut sent = Vec::new();
        while let Some(piece) = receiver.blocking_recv() {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE);
            sent.extend_from_slice(&piece);
        }
        writing.join().unwrap();
        let mut zip = zip::ZipArchive::new(io::Cursor::new(sent)).unwrap();
        let mut read = Vec::new();
        zip.by_name("Model 0.hdf5").unwrap().read_to_end(&mut read).unwrap();
        assert!(read == long && zip.by_name("empty").unwrap().size() == 0);
    }

    #[test]
    fn whoever_goes_away_ends_the_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, vec![0; 10 * PIECE]).unwrap();
        let (sender, receiver) = mpsc::channel(PIECES);
        drop(receiver);
        write(std::iter::once(Ok(("large".to_owned(), File::open(path).unwrap()))), sender);
    }

    #[test]
    fn a_file_is_opened_when_its_turn_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, vec![0; 10 * PIECE]).unwrap();
        let opened = AtomicUsize::new(0);
        let files = ["one", "other"].into_iter().map(|name| {
            opened.fetch_add(1, Ordering::Relaxed);
            Ok((name.to_owned(), File::open(&path).unwrap()))
        });
        let (sender, mut receiver) = mpsc::channel(PIECES);
        std::thread::scope(|scope| {
            scope.spawn(|| write(files, sender));
            receiver.blocking_recv().unwrap().unwrap();
            // The client is slow: only so many pieces wait for it.
            assert_eq!(opened.load(Ordering::Relaxed), 1);
            while receiver.blocking_recv().is_some() {}
        });
        assert_eq!(opened.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn only_so_many_zips_are_sent_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits { zips: 1, ..Limits::default() });
        let first = turn(&app).unwrap();
        let refused = turn(&app).unwrap_err();
        assert_eq!(refused.status, 503);
        assert!(refused.detail.starts_with("Too many zips"), "{}", refused.detail);
        drop(first);
        assert!(turn(&app).is_ok());
    }
}
