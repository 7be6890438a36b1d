//! What fuzz targets share.

use std::fmt::Debug;
use std::path::PathBuf;
use std::{env, fs};

/// The path of a file that belongs to this fuzz target, below the folder that it is run in.
pub fn path(name: &str) -> PathBuf {
    let program = done(env::current_exe());
    PathBuf::from("target/fuzz/files").join(program.file_name().unwrap_or_default()).join(name)
}

/// Writes such a file, anew: what is written over another may have to reach the disk (ext4's `auto_da_alloc`).
pub fn write(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = path(name);
    fs::remove_file(&path).ok();
    if let Err(_missing) = fs::write(&path, &content) {
        done(fs::create_dir_all(self::path("")));
        done(fs::write(&path, content));
    }
    path
}

/// What cannot fail if the code is right.
pub fn done<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}
