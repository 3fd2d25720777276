//! All models, or all layers, of a run in one zip, written while it is sent.

use std::fs::File;
use std::io::{self, Write};

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use domain::hex_sha256;
use futures_util::stream;
use tokio::sync::mpsc;
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
    let objects = app.store.objects().clone();
    // All are open before anything is promised: what is purged meanwhile is sent all the same.
    let opened = blocking(move || open(&objects, files)).await??;
    let pieces = zipped(opened);
    let saved = format!("attachment; filename=\"run-{}-{name}s.zip\"", run.id);
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_DISPOSITION, saved),
        (header::ETAG, tag),
    ];
    Ok((headers, pieces).into_response())
}

/// A zip of these files as a body, written while it is sent.
pub(super) fn zipped(files: Vec<(String, File)>) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || write(files, sender));
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Body::from_stream(pieces)
}

/// Opens objects by their SHA-256, with their names beside them.
///
/// # Errors
/// When one can't be read.
pub(super) fn open(
    objects: &Objects,
    files: Vec<(String, String)>,
) -> Result<Vec<(String, File)>, StoreError> {
    let open = |(name, sha256): (String, String)| {
        let file = objects.open(&sha256);
        let failed =
            |source| StoreError::File { path: sha256.into(), what: "can't be read", source };
        file.map(|file| (name, file)).map_err(failed)
    };
    files.into_iter().map(open).collect()
}

/// Writes the zip into the channel. An error ends the answer before its end, which the client sees.
fn write(files: Vec<(String, File)>, sender: mpsc::Sender<io::Result<Bytes>>) {
    let pieces = Pieces { sender: sender.clone(), piece: Vec::with_capacity(PIECE) };
    if let Err(error) = zip(files, pieces)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        warn!("a zip ended before its end: {error}");
        let _ = sender.blocking_send(Err(error)); // nobody listens any more: nobody has to be told
    }
}

/// Without compression: weights don't get smaller, and PNGs are compressed.
fn zip(files: Vec<(String, File)>, pieces: Pieces) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o644);
    let mut zip = ZipWriter::new_stream(pieces);
    for (name, mut file) in files {
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

    use super::*;

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
        let writing = std::thread::spawn(move || write(files, sender));
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
        write(vec![("large".to_owned(), File::open(path).unwrap())], sender);
    }
}
