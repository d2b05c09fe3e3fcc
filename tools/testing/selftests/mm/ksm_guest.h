/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A small virtual machine for the ksm_kvm tests. Its guest is a few bytes of
 * code, which run until they halt and copy from one place of the guest's memory
 * to another: between the pages that a test is about and a window that takes no
 * part in merging, in which the test sees what the guest saw. x86 only.
 */
#ifndef KSM_GUEST_H
#define KSM_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"	/* once for each program: it has no guard */

/* Where the guest has its code, the window and the memory that is merged. */
#define GUEST_CODE	0x0
#define GUEST_WINDOW	0x100000
#define GUEST_RAM	0x400000

static const unsigned char guest_copy_code[] = {
	0xfc,			/* cld */
	0xf3, 0xa5,		/* rep movsl: %ecx words from %esi to %edi */
	0xf4,			/* hlt */
};

static const unsigned char guest_count_code[] = {
	0xff, 0x07,		/* incl (%edi) */
	0x01, 0xc7,		/* add %eax, %edi */
	0xe2, 0xfa,		/* loop: back to incl, %ecx times in all */
	0xf4,			/* hlt */
};

static const unsigned char guest_touch_code[] = {
	0x8b, 0x17,		/* mov (%edi), %edx */
	0x01, 0xc7,		/* add %eax, %edi */
	0xe2, 0xfa,		/* loop: back to mov, %ecx times in all */
	0xf4,			/* hlt */
};

#define GUEST_COPY_CODE		GUEST_CODE
#define GUEST_COUNT_CODE	(GUEST_COPY_CODE + sizeof(guest_copy_code))
#define GUEST_TOUCH_CODE	(GUEST_COUNT_CODE + sizeof(guest_count_code))

/**
 * struct ksm_guest - a virtual machine with one CPU
 * @kvm: /dev/kvm
 * @vm: the machine
 * @vcpu: its CPU
 * @run: how the CPU stopped; shared with the kernel
 * @code: the guest's memory at GUEST_CODE, as the host sees it
 * @window: at GUEST_WINDOW
 * @ram: at GUEST_RAM
 */
struct ksm_guest {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	char *code;
	char *window;
	char *ram;
};

static inline bool guest_add_memory(struct ksm_guest *guest, unsigned int slot, char *map,
				    size_t pages, uint64_t at)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = pages * psize(),
		.userspace_addr = (uintptr_t)map,
	};

	return !ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* 32-bit protected mode without paging: addresses are those of the guest's memory. */
static inline bool guest_set_mode(struct ksm_guest *guest)
{
	struct kvm_segment data = {
		.limit = UINT32_MAX,
		.selector = 16,
		.type = 3,		/* writable, accessed */
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
	struct kvm_sregs sregs;

	if (ioctl(guest->vcpu, KVM_GET_SREGS, &sregs))
		return false;
	sregs.ds = data;
	sregs.es = data;
	sregs.ss = data;
	sregs.cs = data;
	sregs.cs.selector = 8;
	sregs.cs.type = 11;		/* readable code, accessed */
	sregs.cr0 |= 1;			/* protected mode */
	return !ioctl(guest->vcpu, KVM_SET_SREGS, &sregs);
}

/* Why there can be no guest here, or NULL. @guest->kvm is open then. */
static inline const char *guest_missing(struct ksm_guest *guest)
{
	static char why[96];

	guest->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (guest->kvm >= 0)
		return NULL;
	snprintf(why, sizeof(why), "needs KVM and a CPU that has it: /dev/kvm: %s",
		 strerror(errno));
	return why;
}

/*
 * A machine with @pages of memory, and a window just as large. The memory may be
 * there already: it is at @guest->ram, which is NULL else.
 */
static inline bool guest_create(struct ksm_guest *guest, size_t pages)
{
	int size = ioctl(guest->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	guest->code = ksm_map_pages(1);
	guest->window = ksm_map_pages(pages);
	if (!guest->ram)
		guest->ram = ksm_map_fenced(pages);
	guest->vm = ioctl(guest->kvm, KVM_CREATE_VM, 0);
	guest->vcpu = ioctl(guest->vm, KVM_CREATE_VCPU, 0);
	if (size < 0 || guest->vm < 0 || guest->vcpu < 0)
		return false;
	guest->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
	if (guest->run == MAP_FAILED || !guest->code || !guest->window || !guest->ram)
		return false;
	memcpy(guest->code + GUEST_COPY_CODE, guest_copy_code, sizeof(guest_copy_code));
	memcpy(guest->code + GUEST_COUNT_CODE, guest_count_code, sizeof(guest_count_code));
	memcpy(guest->code + GUEST_TOUCH_CODE, guest_touch_code, sizeof(guest_touch_code));
	return guest_add_memory(guest, 0, guest->code, 1, GUEST_CODE) &&
	       guest_add_memory(guest, 1, guest->window, pages, GUEST_WINDOW) &&
	       guest_add_memory(guest, 2, guest->ram, pages, GUEST_RAM) && guest_set_mode(guest);
}

/* Switches the machine off. Its memory stays. */
static inline bool guest_destroy(struct ksm_guest *guest)
{
	int size = ioctl(guest->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	return !munmap(guest->run, size) && !close(guest->vcpu) && !close(guest->vm);
}

/* Runs the guest until it halts. */
static inline bool guest_run(struct ksm_guest *guest, struct kvm_regs *regs)
{
	regs->rflags = 2;
	if (ioctl(guest->vcpu, KVM_SET_REGS, regs))
		return false;
	while (ioctl(guest->vcpu, KVM_RUN, 0)) {
		if (errno != EINTR)
			return false;
	}
	if (guest->run->exit_reason != KVM_EXIT_HLT)
		fprintf(stderr, "# the guest did not halt: reason %u\n", guest->run->exit_reason);
	return guest->run->exit_reason == KVM_EXIT_HLT;
}

static inline bool guest_copies(struct ksm_guest *guest, uint64_t to, uint64_t from, size_t bytes)
{
	struct kvm_regs regs = {
		.rip = GUEST_COPY_CODE,
		.rsi = from,
		.rdi = to,
		.rcx = bytes / sizeof(uint32_t),
	};

	return guest_run(guest, &regs);
}

/* As ksm_fill(), but it is the guest that writes. */
static inline bool guest_fills(struct ksm_guest *guest, size_t first, size_t pages, uint64_t seed,
			       uint64_t step)
{
	ksm_fill(guest->window, pages, seed, step);
	return guest_copies(guest, GUEST_RAM + first * psize(), GUEST_WINDOW, pages * psize());
}

/* To the window, where nothing is left of what was read before. */
static inline bool guest_reads(struct ksm_guest *guest, size_t first, size_t pages)
{
	memset(guest->window, 0x55, pages * psize());
	return guest_copies(guest, GUEST_WINDOW, GUEST_RAM + first * psize(), pages * psize());
}

/* Reads a word of each page, which is quick. */
static inline bool guest_touches(struct ksm_guest *guest, size_t first, size_t pages)
{
	struct kvm_regs regs = {
		.rip = GUEST_TOUCH_CODE,
		.rax = psize(),
		.rdi = GUEST_RAM + first * psize(),
		.rcx = pages,
	};

	return guest_run(guest, &regs);
}

/* As ksm_first_wrong(), but it is the guest that reads. */
static inline long guest_first_wrong(struct ksm_guest *guest, size_t first, size_t pages,
				     uint64_t seed, uint64_t step)
{
	if (!guest_reads(guest, first, pages))
		return -EIO;
	return ksm_first_wrong(guest->window, pages, seed, step);
}

#endif
