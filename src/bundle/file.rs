//! The file: reading one that may be anything, and writing one.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::Mode;

use super::{BundleError, Manifest};
use crate::authority;
use crate::files::{reading, writing};

/// Most bytes of the line that says what is in it.
const LONGEST_MANIFEST: u64 = 1 << 20;
/// Most bytes of a script, of a module and of an agent's library; real ones have a hundredth to a tenth of that.
const LARGEST_SCRIPT: u64 = 4 << 20;
const LARGEST_MODULE: u64 = 64 << 20;
const LARGEST_AGENT: u64 = 16 << 20;

/// A bundle that was read and is what it says of itself. Whether it fits anything is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    /// The file that it was read from.
    pub(crate) path: PathBuf,
    /// What it was made for.
    pub(crate) manifest: Manifest,
    /// The script.
    pub(crate) script: String,
    /// The compiled module.
    pub(crate) module: Vec<u8>,
    /// The agent's library, where the script probes it.
    pub(crate) agent: Option<Vec<u8>>,
}

impl Bundle {
    /// Reads a bundle that nobody else could have written.
    ///
    /// # Errors
    /// [`BundleError`] when it is somebody else's, cannot be read, is none, is damaged or of another pystap.
    pub(crate) fn open(path: &Path) -> Result<Bundle, BundleError> {
        let unreadable = |reason| BundleError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        // What is not there is not anybody's.
        let file = reading::open(path).map_err(unreadable)?;
        authority::ours(path).map_err(|reason| BundleError::Distrusted {
            path: path.to_owned(),
            reason,
        })?;
        Bundle::read(path, file)
    }

    pub(super) fn read(path: &Path, file: impl Read) -> Result<Bundle, BundleError> {
        let damaged = |reason: String| BundleError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let wrong = |error: io::Error| damaged(words(&error));
        let mut packed = BufReader::new(file);
        let magic = packed.fill_buf().map_err(wrong)?;
        if !magic.starts_with(&[0x1f, 0x8b]) {
            return Err(BundleError::NoBundle(path.to_owned()));
        }
        let mut content = BufReader::new(GzDecoder::new(&mut packed));
        let mut line = Vec::new();
        (&mut content)
            .take(LONGEST_MANIFEST)
            .read_until(b'\n', &mut line)
            .map_err(wrong)?;
        let manifest = Manifest::parse(&line, path)?;
        let parts = &manifest.parts;
        let mut part = |what: &str, length: u64, most: u64| {
            if length > most {
                return Err(damaged(format!("its {what} would have {length} bytes")));
            }
            let mut bytes = Vec::new();
            // Not made room for beforehand: what comes is what counts.
            (&mut content)
                .take(length)
                .read_to_end(&mut bytes)
                .map_err(wrong)?;
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(damaged(format!("its {what} ends too early"))),
            }
        };
        let script = part("script", parts.script, LARGEST_SCRIPT)?;
        let module = part("module", parts.module, LARGEST_MODULE)?;
        let agent = parts
            .agent
            .map(|length| part("agent", length, LARGEST_AGENT));
        let agent = agent.transpose()?;
        // Only at its end is the checksum looked at.
        let more = content.read(&mut [0]).map_err(wrong)?;
        drop(content);
        if more > 0 || !packed.fill_buf().map_err(wrong)?.is_empty() {
            return Err(damaged("there is more in it than it says".to_owned()));
        }
        let script =
            String::from_utf8(script).map_err(|_| damaged("its script is no text".to_owned()))?;
        Ok(Bundle {
            path: path.to_owned(),
            manifest,
            script,
            module,
            agent,
        })
    }

    /// Writes it to its path, complete or not at all, and says how many bytes it has there.
    ///
    /// # Errors
    /// [`BundleError::Unwritable`].
    pub(crate) fn write(&self) -> Result<u64, BundleError> {
        self.written().map_err(|reason| BundleError::Unwritable {
            path: self.path.clone(),
            reason,
        })
    }

    /// Whether one could be put at a path, for those who would work long for it. Leaves nothing there.
    ///
    /// # Errors
    /// [`BundleError::Unwritable`].
    pub(crate) fn could_be_at(path: &Path) -> Result<(), BundleError> {
        draft(path)
            .map(drop)
            .map_err(|reason| BundleError::Unwritable {
                path: path.to_owned(),
                reason,
            })
    }

    fn written(&self) -> io::Result<u64> {
        let draft = draft(&self.path)?;
        let mut packed = GzEncoder::new(BufWriter::new(draft), Compression::default());
        serde_json::to_writer(&mut packed, &self.manifest)?;
        packed.write_all(b"\n")?;
        packed.write_all(self.script.as_bytes())?;
        packed.write_all(&self.module)?;
        packed.write_all(self.agent.as_deref().unwrap_or_default())?;
        let draft = packed.finish()?;
        draft
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .put()?;
        Ok(std::fs::metadata(&self.path)?.len())
    }
}

/// A bundle in the making.
fn draft(path: &Path) -> io::Result<writing::Draft> {
    let draft = writing::Draft::new(path, Mode::from_raw_mode(0o600))?;
    draft.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a bundle is put in place as a whole, and this is no ordinary file of one name",
        )
    })
}

/// Why it cannot be unpacked, a clause.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    }
}
