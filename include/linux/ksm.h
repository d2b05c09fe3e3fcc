/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Samepage merging: what the rest of the kernel calls. The engine lives in
 * mm/ksm/; its map is mm/ksm/ksm.h.
 */
#ifndef _LINUX_KSM_H
#define _LINUX_KSM_H

#include <linux/err.h>
#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/pgtable.h>

struct folio;
struct list_head;
struct page;
struct rmap_walk_control;

#ifdef CONFIG_KSM

/* Registration: madvise, prctl and the flags of new VMAs. */
int ksm_madvise(struct vm_area_struct *vma, unsigned long start, unsigned long end,
		int advice, vm_flags_t *vm_flags);
vma_flags_t ksm_vma_flags(struct mm_struct *mm, const struct file *file, vma_flags_t vma_flags);
int ksm_enable_merge_any(struct mm_struct *mm);
int ksm_disable_merge_any(struct mm_struct *mm);
int ksm_disable(struct mm_struct *mm);
bool ksm_process_mergeable(struct mm_struct *mm);
long ksm_process_profit(struct mm_struct *mm);

/* Life of an mm; called through the wrappers below. */
int __ksm_enter(struct mm_struct *mm);
void __ksm_fork(struct mm_struct *mm);
void __ksm_exit(struct mm_struct *mm);

/* Merged folios: swap-in, reverse mapping, migration, memory failure. */
struct folio *ksm_might_need_to_copy(struct folio *folio, struct vm_area_struct *vma,
				     unsigned long addr);
void rmap_walk_ksm(struct folio *folio, struct rmap_walk_control *rwc);
void folio_migrate_ksm(struct folio *newfolio, struct folio *folio);
void collect_procs_ksm(const struct folio *folio, const struct page *page,
		       struct list_head *to_kill, int force_early);

/* Zero pages that KSM has put in place of empty ones, in the whole system. */
extern atomic_long_t ksm_zero_pages;

/* The dirty bit marks a zero page placed by KSM: nobody can have written to it. */
static inline bool is_ksm_zero_pte(pte_t pte)
{
	return pte_dirty(pte) && is_zero_pfn(pte_pfn(pte));
}

/**
 * ksm_mm_init - a new mm has no figures of its own yet
 * @mm: zeroed, or a copy of another on fork
 *
 * Context: nobody else sees @mm.
 */
static inline void ksm_mm_init(struct mm_struct *mm)
{
	mm->ksm_rmap_items = 0;
	mm->ksm_merging_pages = 0;
	atomic_long_set(&mm->ksm_zero_pages, 0);
}

/**
 * ksm_might_map_zero_page - a PTE that may map a zero page of KSM's was copied
 * @mm: whose copy
 * @pte: its value, present
 *
 * Context: the lock of the copy's page table held.
 */
static inline void ksm_might_map_zero_page(struct mm_struct *mm, pte_t pte)
{
	if (!is_ksm_zero_pte(pte))
		return;
	atomic_long_inc(&mm->ksm_zero_pages);
	atomic_long_inc(&ksm_zero_pages);
}

/**
 * ksm_might_unmap_zero_page - a PTE that may map a zero page of KSM's goes away
 * @mm: whose
 * @pte: its old value, present
 *
 * Context: the page table lock held.
 */
static inline void ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte)
{
	if (!is_ksm_zero_pte(pte))
		return;
	atomic_long_dec(&mm->ksm_zero_pages);
	atomic_long_dec(&ksm_zero_pages);
}

static inline long mm_ksm_zero_pages(struct mm_struct *mm)
{
	return atomic_long_read(&mm->ksm_zero_pages);
}

/**
 * ksm_fork - a copy of a registered mm takes part too
 * @mm: the copy, whose page tables are complete
 * @oldmm: the original
 *
 * Without memory for it the copy stays out until ksmd finds it; its merged pages are
 * found through the original's all the same.
 *
 * Context: both mmap_locks held for writing.
 */
static inline void ksm_fork(struct mm_struct *mm, struct mm_struct *oldmm)
{
	/* An original for which there was no memory may have a copy for which there is. */
	if (mm_flags_test(MMF_VM_MERGEABLE, oldmm) || mm_flags_test(MMF_VM_MERGE_ANY, mm))
		__ksm_fork(mm);
}

/**
 * ksm_execve - a new program's mm takes part if its process asked for that
 * @mm: new, not yet visible to others
 *
 * Context: mmap_lock held for writing.
 * Return: 0 or -ENOMEM.
 */
static inline int ksm_execve(struct mm_struct *mm)
{
	return mm_flags_test(MMF_VM_MERGE_ANY, mm) ? __ksm_enter(mm) : 0;
}

/**
 * ksm_exit - an mm goes away
 * @mm: whose last user is gone
 *
 * When it returns, KSM will not look at the mm's page tables again.
 *
 * Context: may sleep: waits for the batch in progress, and for locks of merged folios.
 */
static inline void ksm_exit(struct mm_struct *mm)
{
	if (mm_flags_test(MMF_VM_MERGEABLE, mm))
		__ksm_exit(mm);
}

#else /* !CONFIG_KSM */

static inline int ksm_madvise(struct vm_area_struct *vma, unsigned long start,
			      unsigned long end, int advice, vm_flags_t *vm_flags)
{
	return 0;
}

static inline vma_flags_t ksm_vma_flags(struct mm_struct *mm, const struct file *file,
					vma_flags_t vma_flags)
{
	return vma_flags;
}

static inline int ksm_disable(struct mm_struct *mm)
{
	return 0;
}

static inline struct folio *ksm_might_need_to_copy(struct folio *folio,
						   struct vm_area_struct *vma,
						   unsigned long addr)
{
	return folio;
}

static inline int ksm_execve(struct mm_struct *mm)
{
	return 0;
}

static inline void ksm_fork(struct mm_struct *mm, struct mm_struct *oldmm) { }
static inline void ksm_exit(struct mm_struct *mm) { }
static inline void ksm_mm_init(struct mm_struct *mm) { }
static inline void ksm_might_map_zero_page(struct mm_struct *mm, pte_t pte) { }
static inline void ksm_might_unmap_zero_page(struct mm_struct *mm, pte_t pte) { }
static inline void rmap_walk_ksm(struct folio *folio, struct rmap_walk_control *rwc) { }
static inline void folio_migrate_ksm(struct folio *newfolio, struct folio *folio) { }
static inline void collect_procs_ksm(const struct folio *folio, const struct page *page,
				     struct list_head *to_kill, int force_early) { }

#endif /* CONFIG_KSM */
#endif /* _LINUX_KSM_H */
