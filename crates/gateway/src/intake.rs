//! Pages come in: streamed to the disk, decoded as the trainer does it, and kept.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use axum::http::StatusCode;
use domain::{InputKind, Layer};
use page_layers::{Page as Decoded, PageInputs};
use tokio::io::AsyncWriteExt as _;
use tracing::warn;

use crate::app::{App, blocking};
use crate::order::FieldProblem;
use crate::problem::Problem;
use crate::store::{Account, NewPage, Page, PageFile, Part, Store, StoreError};
use crate::thumbnail;

/// Most bytes of a text among the parts of a form.
const LONGEST_TEXT: usize = 1000;

/// Most parts of a form.
const MOST_PARTS: usize = 40;

/// What has come in, in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Upload {
    folder: PathBuf,
    /// The texts of the form, by name.
    pub texts: BTreeMap<String, String>,
    files: BTreeMap<Part, PathBuf>,
    archive: Option<PathBuf>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            warn!("{}: can't be removed: {error}", self.folder.display());
        }
    }
}

/// Writes the parts of a form to the disk as they come.
///
/// # Errors
/// When the form is broken, too large, or names no part of a page; when the disk is full.
pub(crate) async fn receive(app: &App, mut form: Multipart) -> Result<Upload, Problem> {
    let folder = app.store.folder().incoming().join(uuid::Uuid::new_v4().to_string());
    DirBuilder::new().mode(0o700).create(&folder).map_err(|error| unwritten(&folder, error))?;
    let mut upload =
        Upload { folder, texts: BTreeMap::new(), files: BTreeMap::new(), archive: None };
    let mut left = app.limits.upload_bytes;
    let mut parts = 0;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        parts += 1;
        if parts > MOST_PARTS {
            return Err(too_large(&format!("the form has over {MOST_PARTS} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.file_name().map(str::to_owned);
        match kind_of(&name, file.as_deref()) {
            Kind::Nothing => {}
            Kind::Text => {
                let text = text(field).await?;
                upload.texts.insert(name, text);
            }
            Kind::Part(part) => {
                let path = upload.folder.join(part.name());
                if upload.files.contains_key(&part) {
                    let what = format!("{} is there twice; leave one", part.name());
                    return Err(Problem::fields(vec![FieldProblem::new(pointer(part), what)]));
                }
                // An input of a form where no file was chosen.
                if write(field, &path, &mut left).await? > 0 {
                    upload.files.insert(part, path);
                }
            }
            Kind::Archive => {
                let path = upload.folder.join("archive.zip");
                if upload.archive.is_some() {
                    let what = "there are two zips; send one page at a time";
                    return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
                }
                if write(field, &path, &mut left).await? > 0 {
                    upload.archive = Some(path);
                }
            }
            Kind::Unknown(name) => {
                let what = format!(
                    "{name} is no part of a page; the files are called image.png (or .jpg), \
                     background.png, regions.png and layer_0.png to layer_9.png, or are one zip \
                     of Pixel"
                );
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what));
            }
        }
    }
    Ok(upload)
}

/// What a part of a form is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A file's input where none was chosen.
    Nothing,
    Text,
    Part(Part),
    Archive,
    Unknown(String),
}

/// By the name of its file, else by that of its field.
fn kind_of(field: &str, file: Option<&str>) -> Kind {
    let Some(file) = file else {
        return part_of(field).map_or(Kind::Text, Kind::Part);
    };
    if file.is_empty() {
        return Kind::Nothing;
    }
    // Some browsers and programs send the folder, too.
    let file = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let (stem, ending) = file.rsplit_once('.').unwrap_or((file, ""));
    if ending.eq_ignore_ascii_case("zip") {
        return Kind::Archive;
    }
    match part_of(stem).or_else(|| part_of(field)) {
        Some(part) => Kind::Part(part),
        None => Kind::Unknown(base::text::printable(file, 60)),
    }
}

/// The part with this name: that of a page's folder, or Rodan's.
fn part_of(name: &str) -> Option<Part> {
    Part::from_name(&name.to_ascii_lowercase()).or_else(|| part(InputKind::from_image_name(name)?))
}

fn part(kind: InputKind) -> Option<Part> {
    match kind {
        InputKind::Image => Some(Part::Image),
        InputKind::Regions => Some(Part::Regions),
        InputKind::Layer(Layer::Background) => Some(Part::Background),
        InputKind::Layer(Layer::Numbered(number)) => Some(Part::Layer(number)),
        _ => None,
    }
}

fn pointer(part: Part) -> String {
    format!("/{}", part.name())
}

async fn text(mut field: Field<'_>) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_TEXT {
            return Err(too_large(&format!("a text of the form has over {LONGEST_TEXT} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a part to the disk; returns its size.
async fn write(mut field: Field<'_>, path: &Path, left: &mut u64) -> Result<u64, Problem> {
    let failed = |error| unwritten(path, error);
    let file = File::options().create_new(true).write(true).mode(0o600).open(path);
    let mut file = tokio::fs::File::from_std(file.map_err(failed)?);
    let mut size = 0;
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        let length = chunk.len() as u64;
        let Some(rest) = left.checked_sub(length) else {
            return Err(too_large("the upload is larger than this gateway takes"));
        };
        (*left, size) = (rest, size + length);
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(size)
}

fn broken(error: MultipartError) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!(
            "the form ended early or is no multipart/form-data ({}); send it again",
            error.body_text()
        ),
    )
}

fn too_large(what: &str) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what)
}

fn unwritten(path: &Path, source: std::io::Error) -> Problem {
    let path = path.to_owned();
    Problem::from(StoreError::File { path, what: "can't be written", source })
}

/// Checks what has come in and keeps it; false beside the page when it was there before.
///
/// # Errors
/// When it is no page that can be trained; when it can't be kept.
pub(crate) async fn take(
    app: &App,
    upload: Upload,
    account: Account,
) -> Result<(Page, bool), Problem> {
    let Ok(_turn) = app.decoding.acquire().await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is ending"));
    };
    let store = std::sync::Arc::clone(&app.store);
    let limit = app.limits.upload_bytes;
    blocking(move || check(&store, &upload, &account, limit)).await?
}

fn check(
    store: &Store,
    upload: &Upload,
    account: &Account,
    limit: u64,
) -> Result<(Page, bool), Problem> {
    base::crash::point("before checking a page");
    let files = files_of(upload, limit)?;
    let inputs = inputs(&files)?;
    let page = Decoded::load(&inputs).map_err(|error| {
        let place = upload.folder.display().to_string() + "/";
        let what = error.to_string().replace(&place, "");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
    })?;
    let small = upload.folder.join("thumbnail.jpg");
    let drawn = thumbnail::draw(&page);
    fs::write(&small, drawn).map_err(|error| unwritten(&small, error))?;
    let keep = |path: &Path| store.objects().keep(path).map_err(|error| unwritten(path, error));
    let mut kept = Vec::with_capacity(files.len());
    for (part, path) in &files {
        let layer = part.layer();
        let found = page.layers().iter().find(|found| Some(found.layer) == layer);
        kept.push(PageFile {
            part: *part,
            file: format!("{}.{}", part.name(), ending(path)),
            object: keep(path)?,
            pixels: found.map(|layer| layer.mask.count()),
        });
    }
    let name = upload.texts.get("name").map_or("", String::as_str);
    let new = NewPage {
        name: base::text::printable(name, 200),
        width: page.width() as u64,
        height: page.height() as u64,
        files: kept,
        thumbnail: keep(&small)?,
    };
    drop(page);
    Ok(store.add_page(&new, account)?)
}

/// The files of the page, out of the zip if it came in one.
fn files_of(upload: &Upload, limit: u64) -> Result<BTreeMap<Part, PathBuf>, Problem> {
    let Some(archive) = &upload.archive else { return Ok(upload.files.clone()) };
    let refuse = |what: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    if !upload.files.is_empty() {
        return Err(refuse("there is a zip beside single files; send one or the other".into()));
    }
    let folder = upload.folder.join("unpacked");
    let kind = InputKind::Sample(1);
    let pages = page_layers::unpack(kind, archive, &folder, limit)
        .map_err(|error| refuse(error.to_string()))?;
    let [page] = &pages[..] else { return Err(refuse("the zip holds several pages".into())) };
    let mut files = BTreeMap::from([
        (Part::Image, page.image.clone()),
        (Part::Background, page.background.clone()),
    ]);
    files.extend(page.regions.clone().map(|path| (Part::Regions, path)));
    for (layer, path) in &page.layers {
        let Some(part) = part(InputKind::Layer(*layer)) else {
            return Err(refuse(format!(
                "the zip has the layer \"{}\", a name that only Rodan's older jobs know; call it \
                 \"rgba PNG - Layer 0\" or another number",
                layer.input_name()
            )));
        };
        files.insert(part, path.clone());
    }
    Ok(files)
}

/// What the decoder wants, or what is missing.
fn inputs(files: &BTreeMap<Part, PathBuf>) -> Result<PageInputs, Problem> {
    let file = |part: Part| files.get(&part).cloned();
    let layers: Vec<_> = (0..=9)
        .filter_map(|number| Some((Layer::Numbered(number), file(Part::Layer(number))?)))
        .collect();
    let mut missing = Vec::new();
    if !files.contains_key(&Part::Image) {
        missing.push(FieldProblem::new("/image", "is missing: send the page, as PNG or JPEG"));
    }
    if !files.contains_key(&Part::Background) {
        let what = "is missing: export the background as an RGBA PNG";
        missing.push(FieldProblem::new("/background", what));
    }
    if layers.is_empty() {
        let what = "is missing: export at least one layer as an RGBA PNG";
        missing.push(FieldProblem::new("/layer_0", what));
    }
    match (file(Part::Image), file(Part::Background)) {
        (Some(image), Some(background)) if missing.is_empty() => {
            let regions = file(Part::Regions);
            Ok(PageInputs { label: None, image, regions, background, layers })
        }
        _ => Err(Problem::fields(missing)),
    }
}

/// The ending of a file's name, by its first bytes.
fn ending(path: &Path) -> &'static str {
    let mut first = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    if read.is_ok() && first == [0xff, 0xd8] { "jpg" } else { "png" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_its_file_or_its_field() {
        let cases = [
            ("files", Some("image.png"), Kind::Part(Part::Image)),
            ("files", Some("C:\\pages\\Layer_7.PNG"), Kind::Part(Part::Layer(7))),
            ("image", Some("folio 12.jpg"), Kind::Part(Part::Image)),
            ("x", Some("rgba PNG - Layer 3.png"), Kind::Part(Part::Layer(3))),
            ("x", Some("rgba PNG - Selected regions.png"), Kind::Part(Part::Regions)),
            ("regions", None, Kind::Part(Part::Regions)),
            ("name", None, Kind::Text),
            ("layer_3", Some(""), Kind::Nothing),
            ("files", Some("a.ZIP"), Kind::Archive),
            ("files", Some("../../etc/passwd"), Kind::Unknown("passwd".into())),
            ("files", Some("layer_10.png"), Kind::Unknown("layer_10.png".into())),
        ];
        for (field, file, expected) in cases {
            assert_eq!(kind_of(field, file), expected, "{field} {file:?}");
        }
    }

    #[test]
    fn what_is_missing_is_pointed_at() {
        let problem = inputs(&BTreeMap::new()).unwrap_err();
        let pointers: Vec<_> = problem.errors.iter().map(|error| &*error.pointer).collect();
        assert_eq!(pointers, ["/image", "/background", "/layer_0"]);
        let files = [Part::Image, Part::Background, Part::Layer(4)];
        let files = files.map(|part| (part, PathBuf::from(part.name())));
        let found = inputs(&BTreeMap::from(files)).unwrap();
        assert_eq!(found.layers, [(Layer::Numbered(4), PathBuf::from("layer_4"))]);
    }
}
