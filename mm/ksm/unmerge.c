// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unmerging: give every place in a range a page of its own again.
 *
 * The page tables are the truth here, not the engine's records: what maps a
 * merged folio is broken up, whether a site is known or not. Faults that are
 * under way end before it begins, as it takes the mmap_lock for writing and
 * write-locks the VMA. Those that come later cannot map a merged folio: swap-in
 * copies while everything is being unmerged, and where the VMA is not mergeable
 * any more.
 */
#include <linux/ksm.h>
#include <linux/leafops.h>
#include <linux/oom.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/userfaultfd_k.h>

#include "check.h"

/* Places found in one walk. */
#define KSM_UNMERGE_FOUND	32
/* Places unmerged and bytes walked under one hold of an mm's locks. */
#define KSM_UNMERGE_PAGES	512
#define KSM_UNMERGE_BYTES	(256UL << 20)
/* How long to wait for somebody else's exit to go on, in jiffies. */
#define KSM_UNMERGE_PATIENCE	HZ

/*
 * The zero page counts, if it was KSM that put it there. A migration entry may
 * come to map a merged folio: it has to be waited for.
 */
static bool pte_is_shared(struct vm_area_struct *vma, unsigned long addr, pte_t pte)
{
	struct page *page;

	/* What is shared is never writable, and most pages are. */
	if (pte_none(pte) || (pte_present(pte) && pte_write(pte)))
		return false;
	if (!pte_present(pte)) {
		softleaf_t entry = softleaf_from_pte(pte);

		return softleaf_is_migration(entry) &&
		       folio_test_ksm(softleaf_to_folio(entry));
	}
	if (is_ksm_zero_pte(pte))
		return true;
	page = vm_normal_page(vma, addr, pte);
	return page && folio_test_ksm(page_folio(page));
}

/**
 * struct ksm_shared - places that map merged folios, in order
 * @nr: how many
 * @nr_done: so many of them were unshared
 * @nr_noted: so many copies were noted
 * @places: where; @hidden: a userfaultfd wants to see any access, so none can be made
 */
struct ksm_shared {
	unsigned int nr;
	unsigned int nr_done;
	unsigned int nr_noted;
	struct {
		unsigned long addr;
		bool hidden;
	} places[KSM_UNMERGE_FOUND];
};

static bool pte_is_hidden(struct vm_area_struct *vma, pte_t pte)
{
	return userfaultfd_rwp(vma) && !userfaultfd_rwp_async(vma) &&
	       pte_present(pte) && pte_uffd(pte);
}

static int find_shared_pmd(pmd_t *pmd, unsigned long addr, unsigned long end,
			   struct mm_walk *walk)
{
	struct ksm_shared *found = walk->private;
	pte_t *start, *ptep;
	spinlock_t *ptl;

	/* A merged folio is small: nothing to find in a huge mapping. */
	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		spin_unlock(ptl);
		return 0;
	}
	start = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
	if (!start) {
		walk->action = ACTION_AGAIN;
		return 0;
	}
	for (ptep = start; addr < end && found->nr < KSM_UNMERGE_FOUND; addr += PAGE_SIZE, ptep++) {
		pte_t pte = ptep_get(ptep);

		if (!pte_is_shared(walk->vma, addr, pte))
			continue;
		found->places[found->nr].addr = addr;
		found->places[found->nr++].hidden = pte_is_hidden(walk->vma, pte);
	}
	pte_unmap_unlock(start, ptl);
	return found->nr == KSM_UNMERGE_FOUND;
}

static const struct mm_walk_ops find_shared_ops = {
	.pmd_entry = find_shared_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

static int note_copies_pmd(pmd_t *pmd, unsigned long addr, unsigned long end,
			   struct mm_walk *walk)
{
	struct ksm_shared *found = walk->private;
	pte_t *start;
	spinlock_t *ptl;

	start = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
	if (!start)
		return 0;
	for (; found->nr_noted < found->nr_done; found->nr_noted++) {
		unsigned long at = found->places[found->nr_noted].addr;
		struct page *page = NULL;
		pte_t pte;

		/* Its page table is gone. */
		if (at < addr)
			continue;
		if (at >= end)
			break;
		pte = ptep_get(start + ((at - addr) >> PAGE_SHIFT));
		if (pte_present(pte))
			page = vm_normal_page(walk->vma, at, pte);
		if (page)
			ksm_frame_note(page_folio(page));
	}
	pte_unmap_unlock(start, ptl);
	return 0;
}

static const struct mm_walk_ops note_copies_ops = {
	.pmd_entry = note_copies_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

/* Copies have clean entries, and mremap() is about to move them. */
static void note_copies(struct vm_area_struct *vma, struct ksm_shared *found)
{
	found->nr_noted = 0;
	if (found->nr_done)
		walk_page_range_vma(vma, found->places[0].addr,
				    found->places[found->nr_done - 1].addr + PAGE_SIZE,
				    &note_copies_ops, found);
}

/*
 * A fault that wants the page unshared gives the place a copy. It returns
 * without one after it waited for a migration, so the caller looks again. A
 * page that cannot be read any more cannot be copied until memory failure has
 * taken it away. Other faults cannot be served now.
 */
static int unshare(struct vm_area_struct *vma, unsigned long addr)
{
	vm_fault_t ret = handle_mm_fault(vma, addr, FAULT_FLAG_UNSHARE | FAULT_FLAG_REMOTE, NULL);

	if (ret & VM_FAULT_OOM)
		return -ENOMEM;
	if (ret & VM_FAULT_ERROR)
		return -EBUSY;
	return 0;
}

static void forget_unmerged(struct ksm_mm *kmm, unsigned long start, unsigned long end)
{
	if (!kmm || start == end || !ksm_mm_lock(kmm))
		return;
	ksm_forget_range(kmm, start, end - 1);
	ksm_mm_unlock(kmm);
}

/*
 * Unshares @max of the places at most, which counts what was tried. One that cannot be had
 * now ends it, and is an error only if it is the first: who looks again meets it there.
 */
static int unshare_found(struct vm_area_struct *vma, struct ksm_shared *found, unsigned int *max)
{
	while (found->nr_done < found->nr && *max) {
		unsigned long addr = found->places[found->nr_done].addr;
		int err = found->places[found->nr_done].hidden ? -EBUSY : unshare(vma, addr);

		if (err == -EBUSY && found->nr_done)
			return 0;
		(*max)--;
		if (err)
			return err;
		found->nr_done++;
		if (signal_pending(current))
			return -ERESTARTSYS;
		cond_resched();
	}
	return 0;
}

/*
 * Goes on from *@addr until @end or until @max places were unmerged; *@addr
 * says how far it came. Steps over what cannot be unmerged now, and says so:
 * that stays merged and keeps its site, the way to find it. All other records
 * of what was gone over are forgotten. The next walk checks what was unshared. A signal
 * ends it after one place at least, so that a caller that tries again comes to an end.
 */
static int unmerge_some(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long *addr,
			unsigned long end, unsigned int max)
{
	unsigned long from = *addr;
	int ret = 0;

	while (*addr < end && max) {
		struct ksm_shared found;
		int err;

		found.nr = 0;
		found.nr_done = 0;
		walk_page_range_vma(vma, *addr, end, &find_shared_ops, &found);
		*addr = found.nr ? found.places[0].addr : end;
		ksm_point_sleep(KSM_POINT_UNMERGE);
		err = unshare_found(vma, &found, &max);
		note_copies(vma, &found);
		if (err)
			ret = err;
		if (err && err != -EBUSY)
			break;
		if (err) {
			forget_unmerged(kmm, from, *addr);
			*addr += PAGE_SIZE;
			from = *addr;
		}
		if (fatal_signal_pending(current)) {
			ret = -ERESTARTSYS;
			break;
		}
		cond_resched();
	}
	forget_unmerged(kmm, from, *addr);
	return ret;
}

/**
 * ksm_unmerge_range - give a part of a VMA pages of its own
 * @vma: the VMA
 * @start: first byte, page aligned
 * @end: end, page aligned
 *
 * Context: mmap_lock held for writing; sleeps; takes page faults.
 * Return: 0 when nothing in the range is shared any more; -ENOMEM, -EBUSY for
 * a page that cannot be had now, or -ERESTARTSYS on a signal, with a part of it
 * done.
 */
int ksm_unmerge_range(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	struct ksm_mm *kmm = ksm_mm_find(vma->vm_mm);
	int err;

	vma_start_write(vma);
	err = unmerge_some(kmm, vma, &start, end, UINT_MAX);
	if (kmm)
		ksm_mm_put(kmm);
	return err;
}

/* Some of an mm from *@addr on; ULONG_MAX there means that all is done. */
static int unmerge_mm_some(struct ksm_mm *kmm, unsigned long *addr)
{
	struct mm_struct *mm = kmm->slot.mm;
	struct vm_area_struct *vma;
	unsigned long end;
	int err = 0;

	if (mmap_write_lock_killable(mm))
		return -EINTR;
	vma = find_vma(mm, *addr);
	while (vma && !ksm_vma_mergeable(vma))
		vma = find_vma(mm, vma->vm_end);
	/* Nothing outside of mergeable VMAs is merged. */
	end = vma ? max(*addr, vma->vm_start) : ULONG_MAX;
	forget_unmerged(kmm, *addr, end);
	*addr = end;
	if (vma) {
		end += min(vma->vm_end - end, KSM_UNMERGE_BYTES);
		vma_start_write(vma);
	}
	/*
	 * Copies may make the owner's cgroup run out of memory, and who is killed for it
	 * has to get the lock to exit, or the OOM reaper has: else others die, too.
	 */
	mmap_write_downgrade(mm);
	if (vma)
		err = unmerge_some(kmm, vma, addr, end, KSM_UNMERGE_PAGES);
	mmap_read_unlock(mm);
	return err;
}

/* It exits without us: what its page tables map is seen when heirs are waited for. */
static void leave_to_exit(struct ksm_mm *kmm)
{
	ksm_check_leave(kmm->slot.mm);
	forget_unmerged(kmm, 0, ULONG_MAX);
}

/*
 * With a reference on its users the mm cannot exit meanwhile. When nobody else has one
 * copies would be made in vain, so it is given up: then the mm is unmapped here, unless
 * somebody has come to use it again, as a reader of /proc/PID/mem does. Without users it
 * stays without.
 */
static int unmerge_mm(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;
	unsigned long addr = 0;
	int err = 0, ret = 0;

	while (addr != ULONG_MAX) {
		if (!mmget_not_zero(mm)) {
			leave_to_exit(kmm);
			return 0;
		}
		err = 0;
		if (fatal_signal_pending(current))
			err = -EINTR;
		else if (atomic_read(&mm->mm_users) > 1)
			err = unmerge_mm_some(kmm, &addr);
		mmput(mm);
		if (err == -EBUSY)
			ret = err;
		else if (err)
			return err;
		cond_resched();
	}
	return ret;
}

/*
 * Nodes with heirs that stay are mapped by an mm that is just exiting, which
 * ends by itself, or by a copy of an mm that could not be registered for want
 * of memory, not even now. So wait as long as there is progress.
 */
static int wait_for_heirs(void)
{
	unsigned long deadline = jiffies + KSM_UNMERGE_PATIENCE;
	unsigned int left, before = UINT_MAX;

	while ((left = ksm_site_prune_heirs())) {
		if (left < before)
			deadline = jiffies + KSM_UNMERGE_PATIENCE;
		else if (time_after(jiffies, deadline))
			return -EBUSY;
		before = left;
		schedule_timeout_killable(1);
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/**
 * ksm_unmerge_all - unmerge everything; registered areas stay registered
 *
 * Processes forked meanwhile are met, too.
 *
 * Context: ksm_control held, ksm_run set to KSM_RUN_UNMERGE; sleeps.
 * Return: 0; -ENOMEM; -EINTR or -ERESTARTSYS on a signal; -EBUSY.
 */
int ksm_unmerge_all(void)
{
	struct ksm_mm *kmm;
	int err = 0, ret = 0;

	lockdep_assert_held(&ksm_control);
	/* Who wants the memory is whom to kill when there is none. */
	set_current_oom_origin();
	ksm_registry_find_missed(true);
	ksm_registry_rewind(true);
	while ((kmm = ksm_registry_current())) {
		if (!err || err == -EBUSY)
			err = unmerge_mm(kmm);
		if (err == -EBUSY)
			ret = err;
		/* The next pass sees all of it, whether it was unmerged or not. */
		kmm->next = 0;
		ksm_registry_advance(kmm);
		ksm_mm_put(kmm);
	}
	clear_current_oom_origin();
	ksm_registry_bury();
	ksm_scan_reset();
	if (err && err != -EBUSY)
		return err;
	return ret ?: wait_for_heirs();
}
