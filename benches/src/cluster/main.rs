//! x
mod stampede;
const NODES: usize = 5_000;
const WATCHES: usize = 4;
fn main() -> anyhow::Result<()> {
    for fault in stampede::FAULTS {
        let t = std::time::Instant::now();
        let c = fault.simulate()?;
        println!(
            "{} half {:?} most {:?} max {:?} total {} took {:?}",
            fault.name,
            c.half,
            c.most,
            c.by_second.iter().max(),
            c.by_second.iter().sum::<usize>(),
            t.elapsed()
        );
        println!("{:?}", c.by_second);
    }
    Ok(())
}
