# The only ring-0 code: from either boot protocol to ring 3. Some KVMs emulate ring 0 one instruction
# at a time and know only the plain ones, so everything that can be data is data.

.set OTHER_CPU_PAGE, 0x8000

.section .boot.tables, "aw", @progbits
.balign 4096
.global pml4
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
.global pdpt
pdpt:
    .quad page_directories + 0x0007
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .quad page_directories + 0x3007
    .fill 508, 8, 0
# The first 4 GiB one to one: present, writable, user, accessed, dirty, 2 MiB.
page_directories:
    .set frame, 0
    .rept 2048
    .quad frame + 0xe7
    .set frame, frame + 0x200000
    .endr

# 64-bit TSS; every bit of its I/O bitmap is clear: ring 3 may use all ports.
.global tss
tss:
    .long 0
    .quad ring0_stack_end
    .fill 90, 1, 0
    .word 104
    .fill 8192, 1, 0
    .byte 0xff
tss_end:

.balign 16
.global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 code, ring 0, 64-bit
    .quad 0x00cf93000000ffff    # 0x10 data, ring 0
    .quad 0x00cff3000000ffff    # 0x18 data, ring 3
    .quad 0x00affb000000ffff    # 0x20 code, ring 3, 64-bit
    # 0x28: the TSS, available, 16 bytes
    .word tss_end - tss - 1
    .word tss_base_0_15
    .byte tss_base_16_23
    .byte 0x89
    .byte 0
    .byte tss_base_24_31
    .quad 0
gdt_end:

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

# Empty until ring 3 fills it: until then any fault ends in a triple fault.
idt_pointer:
    .word 4095
    .quad idt

.section .note.pvh, "a", @note
    .long 4                     # name size
    .long 8                     # value size
    .long 18                    # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

.section .boot.text, "ax", @progbits
# PVH: 32-bit protected mode, paging off, ebx = hvm_start_info.
.code32
.global pvh_entry
pvh_entry:
    mov esi, ebx
    xor edi, edi
    lgdt [gdt_pointer]
    mov eax, 0x620              # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER
    xor edx, edx
    mov eax, 0x101              # LME, SCE
    wrmsr
    mov eax, 0x80000033         # PG, NE, ET, MP, PE
    mov cr0, eax
    .byte 0xea                  # far jump to 64-bit code
    .long to_ring3
    .word 0x08

# 64-bit Linux protocol: long mode, paging on with the loader's tables, rsi = boot_params.
.code64
.global linux_entry
linux_entry:
    mov edi, 1
    lgdt [gdt_pointer]
    mov eax, 0x620
    mov cr4, rax
    mov eax, offset pml4
    mov cr3, rax
    mov eax, 0x80000033
    mov cr0, rax

to_ring3:
    lidt [idt_pointer]
    mov eax, 0x28
    ltr ax
    mov esp, offset ring0_stack_end
    push 0x1b                   # ss
    push offset stack_end - 8   # rsp, as after a call
    push 0x2                    # rflags
    push 0x23                   # cs
    push offset ring3_start     # rip
    iretq

# Ring-0 services for ring 3: edi = what, rsi and rdx = arguments, rax = result; rcx and rdx are lost.
# The way in is an invalid instruction, because KVMs without hardware know no software interrupts.
.global service_call
service_call:
    ud2
    ret

.balign 16
.global invalid_opcode_gate
invalid_opcode_gate:
    cmp qword ptr [rsp], offset service_call
    jne 9f
    add qword ptr [rsp], 2
    mov ecx, esi
    cmp edi, 1
    je 1f
    cmp edi, 2
    je 2f
    cmp edi, 3
    je 3f
    rdmsr                       # 0: read MSR esi
    shl rdx, 32
    or rax, rdx
    iretq
1:  mov rax, rdx                # 1: write rdx to MSR esi
    shr rdx, 32
    wrmsr
    iretq
2:  mov [rsp + 16], rsi         # 2: return with rflags rsi
    iretq
3:  hlt                         # 3: sleep for ever
    jmp 3b
9:  push 0
    push 6
    jmp fault

# A counted interrupt. Ring 3 sees the count and does the rest, the end of interrupt included.
.balign 16
.global interrupt_gate
interrupt_gate:
    inc qword ptr [interrupt_count]
    iretq

# Faults: one 16-byte stub a vector, then out to ring 3 to tell about it. Never returns to the culprit.
.balign 16
.global fault_gates
fault_gates:
    .set vector, 0
    .rept 32
    .balign 16
    .if (vector < 8) || (vector == 9) || (vector == 16) || (vector > 17 && vector != 21 && vector != 29 && vector != 30)
    push 0
    .endif
    push vector
    jmp fault
    .set vector, vector + 1
    .endr
fault:
    pop rdi                     # vector
    pop rsi                     # error code
    pop rdx                     # rip
    mov rcx, cr2
    mov esp, offset ring0_stack_end
    push 0x1b
    push offset stack_end - 8
    push 0x2
    push 0x23
    push offset report_fault
    iretq

# Another CPU's first code, copied to a page below 1 MiB: from real mode to long mode at once, is counted, sleeps.
.code16
.balign 16
.global other_cpu_start
other_cpu_start:
    cli
    xor ax, ax
    mov ds, ax
    data32 lgdt [other_cpu_gdt_pointer_low]
    mov eax, 0x620
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    xor edx, edx
    mov eax, 0x101
    wrmsr
    mov eax, 0x80000033
    mov cr0, eax
    .byte 0x66, 0xea
    .long other_cpu_long_mode
    .word 0x08
other_cpu_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.global other_cpu_end
other_cpu_end:
.set other_cpu_gdt_pointer_low, OTHER_CPU_PAGE + (other_cpu_gdt_pointer - other_cpu_start)

.code64
other_cpu_long_mode:
    lock inc qword ptr [other_cpus]
8:  hlt
    jmp 8b

.section .bss.stacks, "aw", @nobits
.balign 4096
.global idt
idt:
    .skip 4096
.global interrupt_count
interrupt_count:
    .skip 8
.global other_cpus
other_cpus:
    .skip 8
.balign 16
stack:
    .skip 0x10000
stack_end:
ring0_stack:
    .skip 0x1000
.global ring0_stack_end
ring0_stack_end:
.text
