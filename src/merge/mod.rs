//! Three-way merges: what two sides made of one ancestor becomes one content, or nothing at all.
//!
//! A merge never drops an edit of either side. What cannot be merged without a doubt is a conflict
//! (`None`), and stays one.

mod json;
mod lines;
mod remarks;
mod structured;
mod text;
mod toml;
mod unified;

pub use structured::{Format, structured};
pub use text::{SIZE_MAX, text};
pub use unified::unified;

/// The three contents of a merge.
#[derive(Debug, Clone, Copy)]
pub struct Three<'a> {
    /// What both sides had.
    pub base: &'a [u8],
    /// What one side made of it.
    pub ours: &'a [u8],
    /// What the other side made of it.
    pub theirs: &'a [u8],
}
