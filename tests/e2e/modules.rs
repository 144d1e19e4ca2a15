//! The order of the modules, which is the diagram of the architecture.

use std::path::Path;

use sigward_tests::modules;

const CRATES: [&str; 2] = ["broker", "proxy"];

#[test]
fn a_module_imports_only_modules_listed_below_it_and_not_its_parent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in CRATES {
        let found = modules::findings(&root.join(name)).unwrap();
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}
