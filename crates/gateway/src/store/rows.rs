//! How columns become values.

use rusqlite::Row;
use rusqlite::types::FromSqlError;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::state::State;

/// A column that holds JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| wrong(row, column, error))
}

/// A column that holds JSON or nothing.
pub(super) fn optional_json<T: DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| wrong(row, column, e))
}

/// A column that holds the name of a state.
pub(super) fn state(row: &Row<'_>, column: &str) -> rusqlite::Result<State> {
    let name: String = row.get(column)?;
    State::from_name(&name).ok_or_else(|| wrong(row, column, FromSqlError::InvalidType))
}

/// A column that can't be understood.
pub(super) fn wrong(
    row: &Row<'_>,
    column: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
}

/// A value as the store writes it.
pub(super) fn text_of<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Content { what: "a value", detail: error.to_string() })
}
