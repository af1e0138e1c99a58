//! What the fuzz targets share: how an input is cut into messages, and a small root for whole ends.

pub mod ground;
pub mod tape;
