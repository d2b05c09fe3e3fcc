/* SPDX-License-Identifier: GPL-2.0-only */
/* What spatch must know of the kernel's macros to parse all of mm/ksm/. */
#define scoped_guard YACFE_ITERATOR
