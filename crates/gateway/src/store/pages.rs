//! Pages: an image with its layers, known by what is in its files.

use std::fmt::Write as _;

use domain::hex_sha256;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Account, Object, Store, StoreError, now};

/// What a file of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The page itself.
    Image,
    /// Where the layers count.
    Regions,
    /// The background.
    Background,
    /// A layer, 0 to 9.
    Layer(u8),
}

impl Part {
    /// Its name, which is that of its file in a page's folder, without the ending.
    pub fn name(self) -> String {
        match self {
            Self::Image => "image".into(),
            Self::Regions => "regions".into(),
            Self::Background => "background".into(),
            Self::Layer(number) => format!("layer_{number}"),
        }
    }

    /// The part with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "image" => Some(Self::Image),
            "regions" => Some(Self::Regions),
            "background" => Some(Self::Background),
            _ => match name.strip_prefix("layer_")?.as_bytes() {
                [digit @ b'0'..=b'9'] => Some(Self::Layer(digit - b'0')),
                _ => None,
            },
        }
    }

    /// The layer that it is.
    pub fn layer(self) -> Option<domain::Layer> {
        match self {
            Self::Background => Some(domain::Layer::Background),
            Self::Layer(number) => Some(domain::Layer::Numbered(number)),
            Self::Image | Self::Regions => None,
        }
    }
}

/// A file of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageFile {
    /// What it is.
    pub part: Part,
    /// Its name in a page's folder, such as `image.jpg`.
    pub file: String,
    /// Its bytes.
    pub object: Object,
    /// For a layer: how many pixels it has inside the regions.
    pub pixels: Option<u64>,
}

/// A page that was checked and whose files are kept.
#[derive(Clone, Debug)]
pub struct NewPage {
    /// What its user calls it.
    pub name: String,
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
    /// Its files.
    pub files: Vec<PageFile>,
    /// A small JPEG of it.
    pub thumbnail: Object,
}

impl NewPage {
    /// Its id, which follows from its files: the same page twice is one page.
    pub fn id(&self) -> String {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| file.part);
        let mut text = String::new();
        for file in files {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{} {}", file.part.name(), file.object.sha256);
        }
        hex_sha256(text.as_bytes())[..32].to_owned()
    }
}

/// A page in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its number, which never comes twice.
    pub number: i64,
    /// Its id.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
    /// Name of the object that is a small JPEG of it.
    pub thumbnail: String,
    /// When it came.
    pub created_at: String,
    /// Its files.
    pub files: Vec<PageFile>,
}

impl Page {
    /// Its name, or the beginning of its id.
    pub fn title(&self) -> &str {
        if self.name.is_empty() { self.id.get(..8).unwrap_or(&self.id) } else { &self.name }
    }

    /// What keeps it from being trained well, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let empty = |file: &&PageFile| file.pixels == Some(0);
        let sentence = |file: &PageFile| {
            let name = file.part.layer().map(report::layer_name).unwrap_or_default();
            format!(
                "{name} has no pixel inside the regions: a training of this page will be refused; \
                 draw in it, or leave it out"
            )
        };
        self.files.iter().filter(empty).map(sentence).collect()
    }
}

impl Store {
    /// Notes a page and returns its id; false beside it when it was there. Either way the account,
    /// if there still is one of this number, may use it.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn add_page(&self, page: &NewPage, account: i64) -> Result<(String, bool), StoreError> {
        let id = page.id();
        let mut database = self.database();
        let change = database.transaction()?;
        for object in page.files.iter().map(|file| &file.object).chain([&page.thumbnail]) {
            change.execute(
                "INSERT INTO objects (sha256, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
                params![object.sha256, object.size],
            )?;
        }
        let new = change.execute(
            "INSERT INTO pages (id, name, width, height, thumbnail, created_at)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            params![id, page.name, page.width, page.height, page.thumbnail.sha256, now()],
        )? > 0;
        if new {
            for file in &page.files {
                change.execute(
                    "INSERT INTO page_files (page, part, file, sha256, pixels)
                     VALUES (?, ?, ?, ?, ?)",
                    params![id, file.part.name(), file.file, file.object.sha256, file.pixels],
                )?;
            }
        }
        change.execute(
            "INSERT INTO page_accounts (page, account) SELECT ?, id FROM accounts WHERE id = ?
             ON CONFLICT DO NOTHING",
            params![id, account],
        )?;
        base::crash::point("before noting a page");
        change.commit()?;
        drop(database);
        base::crash::point("after noting a page");
        Ok((id, new))
    }

    /// The page of this id, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn page(&self, id: &str, account: &Account) -> Result<Option<Page>, StoreError> {
        let database = self.database();
        let sql = "SELECT * FROM pages WHERE id = ?1 AND (?3 OR EXISTS
            (SELECT 1 FROM page_accounts WHERE page = ?1 AND account = ?2))";
        let all = account.role.sees_all();
        let Some(mut page) =
            database.query_row(sql, params![id, account.id, all], page_row).optional()?
        else {
            return Ok(None);
        };
        page.files = files(&database, id)?;
        Ok(Some(page))
    }

    /// The page of this number, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn page_numbered(
        &self,
        number: i64,
        account: &Account,
    ) -> Result<Option<Page>, StoreError> {
        let sql = "SELECT id FROM pages WHERE number = ?";
        let id: Option<String> =
            self.database().query_row(sql, [number], |row| row.get(0)).optional()?;
        id.map_or(Ok(None), |id| self.page(&id, account))
    }

    /// The newest pages that the account may see, at most `most`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pages(&self, account: &Account, most: u32) -> Result<Vec<Page>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT * FROM pages WHERE ?2 OR EXISTS
             (SELECT 1 FROM page_accounts WHERE page = pages.id AND account = ?1)
             ORDER BY created_at DESC, id LIMIT ?3",
        )?;
        let all = account.role.sees_all();
        let pages = rows.query_map(params![account.id, all, most], page_row)?;
        let mut pages = pages.collect::<Result<Vec<_>, _>>()?;
        for page in &mut pages {
            page.files = files(&database, &page.id)?;
        }
        Ok(pages)
    }

    /// The pages that a run learns from, in their order.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pages_of(&self, run: i64) -> Result<Vec<Page>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT pages.* FROM run_pages JOIN pages ON pages.id = run_pages.page
             WHERE run_pages.run = ? ORDER BY position",
        )?;
        let mut pages = rows.query_map([run], page_row)?.collect::<Result<Vec<_>, _>>()?;
        for page in &mut pages {
            page.files = files(&database, &page.id)?;
        }
        Ok(pages)
    }
}

fn page_row(row: &Row<'_>) -> rusqlite::Result<Page> {
    Ok(Page {
        number: row.get("number")?,
        id: row.get("id")?,
        name: row.get("name")?,
        width: row.get("width")?,
        height: row.get("height")?,
        thumbnail: row.get("thumbnail")?,
        created_at: row.get("created_at")?,
        files: Vec::new(),
    })
}

fn files(database: &rusqlite::Connection, page: &str) -> Result<Vec<PageFile>, StoreError> {
    let mut rows = database.prepare(
        "SELECT part, file, pixels, objects.sha256, size FROM page_files
         JOIN objects ON objects.sha256 = page_files.sha256 WHERE page = ? ORDER BY part",
    )?;
    let file = |row: &Row<'_>| {
        let part: String = row.get("part")?;
        let file = PageFile {
            part: Part::Image,
            file: row.get("file")?,
            object: Object { sha256: row.get("sha256")?, size: row.get("size")? },
            pixels: row.get("pixels")?,
        };
        Ok((part, file))
    };
    let mut files = Vec::new();
    for row in rows.query_map([page], file)? {
        let (part, file) = row?;
        let part = Part::from_name(&part)
            .ok_or_else(|| StoreError::Content { what: "a part of a page", detail: part })?;
        files.push(PageFile { part, ..file });
    }
    files.sort_by_key(|file| file.part);
    Ok(files)
}
