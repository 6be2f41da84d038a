//! What is printed when KVM gives up on a vCPU: registers and the instruction's bytes. Pure text.

use kvm_bindings::{kvm_regs, kvm_sregs};

/// Registers, a few to a line.
pub fn registers(r: &kvm_regs, s: &kvm_sregs) -> Vec<String> {
    vec![
        format!("rip {:016x}  rflags {:08x}  cs {:04x}  cpl {}", r.rip, r.rflags, s.cs.selector, s.cs.dpl),
        format!("rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx),
        format!("rsi {:016x}  rdi {:016x}  rsp {:016x}  rbp {:016x}", r.rsi, r.rdi, r.rsp, r.rbp),
        format!("r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}", r.r8, r.r9, r.r10, r.r11),
        format!("r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}", r.r12, r.r13, r.r14, r.r15),
        format!("cr0 {:08x}  cr2 {:016x}  cr3 {:08x}  cr4 {:08x}  efer {:x}", s.cr0, s.cr2, s.cr3, s.cr4, s.efer),
    ]
}

/// Meaning of an internal error and, when KVM tells them, the instruction's bytes.
pub fn internal_error(suberror: u32, words: &[u64]) -> (String, Option<String>) {
    let meaning = match suberror {
        1 => "it cannot emulate an instruction of the guest".to_owned(),
        2 => "an event arrived while another was being delivered".to_owned(),
        3 => "delivering an event exited in an unexpected way".to_owned(),
        4 => "the guest left in a way that KVM does not know".to_owned(),
        other => format!("internal error {other}"),
    };
    // Layout for sub-error 1 (KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1): flags, size and bytes.
    let bytes: Vec<u8> = words.iter().skip(1).flat_map(|word| word.to_le_bytes()).collect();
    let instruction = match (suberror, words.first(), bytes.split_first()) {
        (1, Some(flags), Some((&len, rest))) if flags & 1 != 0 => {
            let bytes = rest.iter().take(usize::from(len)).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            Some(format!("instruction bytes {bytes}"))
        }
        _ => None,
    };
    (meaning, instruction)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_instruction_bytes_are_told() {
        // cmpxchg16b [rsi], as KVM reports it: flags, then size and bytes.
        let (meaning, bytes) = super::internal_error(1, &[1, 0x000e_c70f_4804, 0]);
        assert_eq!(meaning, "it cannot emulate an instruction of the guest");
        assert_eq!(bytes.unwrap(), "instruction bytes 48 0f c7 0e");
        assert_eq!(super::internal_error(1, &[0]).1, None);
        assert_eq!(super::internal_error(9, &[]).0, "internal error 9");
    }
}
