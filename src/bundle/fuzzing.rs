//! Entry point for the fuzz target `bundle`.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Bundle;
use crate::script::{self, Catalogue};

/// Packs this content, reads it as a bundle, and does with it all that is done before anything is loaded. Whether it is one.
///
/// # Panics
/// When a bundle that was read says something else when it is read again.
pub fn read(content: &[u8]) -> bool {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packed.write_all(content).and_then(|()| packed.finish());
    let Ok(packed) = packed else { return false };
    let path = Path::new("fuzzed");
    let Ok(bundle) = Bundle::read(path, &packed[..]) else {
        return false;
    };
    let request = bundle.manifest.request();
    let builds: Vec<_> = bundle
        .manifest
        .images
        .iter()
        .map(|image| (image.path.clone().into(), Some(image.build_id.clone())))
        .collect();
    let fits = bundle.fits(&request, &builds, &bundle.manifest.asked.stap_arguments);
    assert!(fits.is_ok(), "{fits:?}");
    if let Ok(catalogue) = Catalogue::load(&[]) {
        let _ = script::render(&catalogue, &request);
    }
    let _ = (
        bundle.manifest.interpreters(),
        bundle.manifest.asked.described(),
    );
    true
}
