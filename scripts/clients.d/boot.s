# SPDX-License-Identifier: GPL-2.0-only
#
# What the guests of scripts/clients.d/guest-qemu run: a boot sector that needs
# nothing but the machine's BIOS. It fills PAGES pages, each with words that no
# other page has, and then goes round for ever: it looks at every word, renews one
# page in 64 with words that change from round to round, and says '.' through
# QEMU's debug port. At the first wrong word it says '!' and stops.
#
# In two guests all pages are equal but those that change.

	.set	FIRST, 0x1000000	# where the pages begin, 16 MiB
	.set	PAGES, 4096
	.set	CHANGING, 0x3f000	# bits that are 0 in the address of a changing page
	.set	DEBUG_PORT, 0xe9

	.code16
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	inb	$0x92, %al		# addresses above 1 MiB
	orb	$2, %al
	outb	%al, $0x92
	lgdt	gdt_place
	movl	%cr0, %eax
	orb	$1, %al			# protected mode
	movl	%eax, %cr0
	ljmp	$8, $flat

	.code32
flat:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x7000, %esp
	cld
	xorl	%ebx, %ebx		# the round
	movl	$FIRST, %edi
	movl	$PAGES, %ebp
fill:
	call	word_of_page
	rep stosl
	decl	%ebp
	jnz	fill

round:
	movl	$FIRST, %edi
	movl	$PAGES, %ebp
look:
	call	word_of_page
	repe scasl
	jne	wrong
	decl	%ebp
	jnz	look

	incl	%ebx
	movl	$FIRST, %edi
renew:
	call	word_of_page
	rep stosl
	addl	$CHANGING, %edi		# past the 63 that stay
	cmpl	$FIRST + PAGES * 4096, %edi
	jb	renew
	movb	$'.', %al
	outb	%al, $DEBUG_PORT
	jmp	round

wrong:
	movb	$'!', %al
	outb	%al, $DEBUG_PORT
	hlt

# For the page at edi: eax = the word that it is full of, ecx = how many.
word_of_page:
	movl	%edi, %eax
	movl	$1024, %ecx
	testl	$CHANGING, %eax
	jnz	1f
	xorl	%ebx, %eax
1:	ret

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9a000000ffff	# code, 4 GiB from 0 on
	.quad	0x00cf92000000ffff	# data, likewise
gdt_place:
	.word	gdt_place - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55
