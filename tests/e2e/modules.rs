//! The order of the modules, which is the diagram of the architecture.

use std::collections::BTreeSet;
use std::path::Path;

use sigward_tests::modules;

/// Each crate, with the imports that are against the order and aren't repaired yet. One that is repaired has to go from
/// here.
const CRATES: [(&str, &[&str]); 2] =
    [("broker", &["intake::gate -> intake::Intake"]), ("proxy", &[])];

#[test]
fn a_module_imports_what_is_listed_below_it_and_nothing_of_its_parent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, known) in CRATES {
        let found = modules::findings(&root.join(name)).unwrap();
        let known: BTreeSet<String> = known.iter().map(ToString::to_string).collect();
        let news: Vec<_> = found.difference(&known).collect();
        assert!(news.is_empty(), "{name}: {news:#?}");
        let repaired: Vec<_> = known.difference(&found).collect();
        assert!(repaired.is_empty(), "{name}: take these from the list: {repaired:#?}");
    }
}
