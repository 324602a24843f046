//! SCSI commands and their parameters, as an initiator sends them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_scsi::{
    Command, ModeState, lun_from_wire, lun_to_wire, mode_select, mode_sense, out_parameters,
    report_opcodes, unmap_ranges,
};

fuzz_target!(|input: &[u8]| {
    let Some((cdb, parameters)) = input.split_first_chunk::<16>() else { return };
    if let Some(lun) =
        parameters.first_chunk().and_then(|wire| lun_from_wire(u64::from_be_bytes(*wire)))
    {
        assert_eq!(lun_from_wire(lun_to_wire(lun)), Some(lun));
    }
    let Ok(command) = Command::parse(cdb) else { return };
    let state = ModeState::default();
    match &command {
        Command::Unmap { .. } => {
            if let Ok(ranges) = unmap_ranges(parameters, 16) {
                assert!(ranges.len() <= 16 && ranges.len() * 16 <= parameters.len());
            }
        }
        Command::PersistentOut { .. } => drop(out_parameters(parameters)),
        Command::ModeSelect(asked) => drop(mode_select(asked, parameters, &state)),
        Command::ModeSense(asked) => {
            if let Ok(page) = mode_sense(asked, &state, true, u64::MAX, 512) {
                assert!(page.len() < 256, "the short form has one byte for its length");
            }
        }
        Command::ReportOpcodes(asked) => drop(report_opcodes(asked)),
        // The commands for which the number of bytes must be known before they arrive.
        _ => assert!(command.data_out(512) <= u64::from(u32::MAX) * 1024),
    }
});
