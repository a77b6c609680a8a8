//! docs/tutorial.md is typed in, block by block, before a real Mosquitto, and prints what it says it prints.

use crate::docs::{TUTORIAL, page};
use crate::support::desk::{Desk, blocks};

/// Whoever types in the tutorial sees what it tells. Only ports differ here, and who the user is.
#[tokio::test]
async fn the_tutorial_works() {
    let text = page(TUTORIAL);
    let blocks = blocks(&text);
    assert!(blocks.len() > 40, "there is a tutorial");
    let mut desk = Desk::new();
    let mut blocks = blocks.iter().peekable();
    while blocks.peek().is_some() {
        desk.types_in(&mut blocks).await;
    }
}
