// SPDX-License-Identifier: GPL-2.0-only
/*
 * A batch: collect, hash and file some pages of one mm.
 *
 * One walk of the page tables collects the pages, with references and no more
 * than one page table lock at a time. They are hashed with no such lock held,
 * and the references are dropped before anything is merged: a page that
 * somebody else holds is not merged, and that includes us. Merging finds the
 * page again and trusts nothing that was seen before.
 *
 * Partners in other mms are dealt with after this mm's locks are gone, so that
 * never two mms are locked at a time.
 */
#include <linux/leafops.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "ksm.h"
#include "../swap.h"

/**
 * enum ksm_sight - what the walk saw at an address
 * @KSM_SIGHT_PAGE: an ordinary anonymous page
 * @KSM_SIGHT_BUSY: the same, but held by others: watched, not merged now
 * @KSM_SIGHT_MERGED: a merged folio that the record does not know of
 * @KSM_SIGHT_GONE: nothing that could merge, but the record knows something
 */
enum ksm_sight {
	KSM_SIGHT_PAGE,
	KSM_SIGHT_BUSY,
	KSM_SIGHT_MERGED,
	KSM_SIGHT_GONE,
};

/**
 * struct ksm_item - one address of a batch
 * @addr: page aligned
 * @page: with a reference while the batch is hashed, else NULL
 * @pfn: of the page
 * @sum: checksum, once hashed
 * @sight: what was seen
 */
struct ksm_item {
	unsigned long addr;
	struct page *page;
	unsigned long pfn;
	u64 sum;
	enum ksm_sight sight;
};

/**
 * struct ksm_pair - a page of this mm and a candidate of another
 * @item: the page
 * @partner: the candidate, with a reference on its mm
 * @err: how its promotion went
 */
struct ksm_pair {
	struct ksm_item *item;
	struct ksm_partner partner;
	int err;
};

/**
 * struct ksm_batch - the work done under one hold of an mm's locks
 * @kmm: whose pages
 * @max: pages to consider at most
 * @considered: present pages seen
 * @tables: page tables walked
 * @forgotten: records forgotten where nothing is mapped
 * @next: where the walk goes on
 * @full: the walk stopped before the end of the mm
 * @block: records around @next while a page table is walked
 * @nr_items: entries in @items
 * @nr_pairs: entries in @pairs
 * @items: pages to look at; those that are known and unchanged have none
 * @pairs: what is left to do without this mm's locks
 */
struct ksm_batch {
	struct ksm_mm *kmm;
	unsigned int max;
	unsigned int considered;
	unsigned int tables;
	unsigned int forgotten;
	unsigned long next;
	bool full;
	struct ksm_block *block;
	unsigned int nr_items;
	unsigned int nr_pairs;
	struct ksm_item items[KSM_BATCH_PAGES];
	struct ksm_pair pairs[KSM_BATCH_PAGES];
};

/**
 * ksm_batch_alloc - room for batches, to be used again and again
 *
 * Return: it, or NULL.
 */
struct ksm_batch *ksm_batch_alloc(void)
{
	return kvzalloc_obj(struct ksm_batch);
}

/**
 * ksm_batch_free - undo ksm_batch_alloc()
 * @batch: it, or NULL
 */
void ksm_batch_free(struct ksm_batch *batch)
{
	kvfree(batch);
}

/**
 * ksm_forget_record - make a page record know nothing
 * @kmm: whose
 * @rec: the record
 * @wait: whether to sleep for the lock of a merged folio
 *
 * Context: @kmm locked; sleeps if @wait.
 * Return: false when a merged folio is locked and @wait is not set; nothing
 * changed.
 */
bool ksm_forget_record(struct ksm_mm *kmm, struct ksm_record rec, bool wait)
{
	union ksm_word word = ksm_record_word(rec);

	switch (ksm_record_state(rec)) {
	case KSM_CANDIDATE:
		ksm_unstable_del(word.candidate);
		break;
	case KSM_MERGED:
		if (!ksm_stable_leave(word.site, kmm->slot.mm, wait))
			return false;
		break;
	default:
		break;
	}
	ksm_track_set(&kmm->track, rec, KSM_UNSEEN, (union ksm_word){});
	return true;
}

/**
 * ksm_forget_range - forget all records of a range and free its blocks
 * @kmm: whose
 * @start: first byte
 * @last: last byte
 *
 * Context: @kmm locked; sleeps, for locks of merged folios too.
 */
void ksm_forget_range(struct ksm_mm *kmm, unsigned long start, unsigned long last)
{
	unsigned long addr = start;
	struct ksm_record rec;

	while (ksm_track_next(&kmm->track, &addr, last, &rec)) {
		ksm_forget_record(kmm, rec, true);
		cond_resched();
		if (last - addr < PAGE_SIZE)
			break;
		addr += PAGE_SIZE;
	}
	ksm_track_trim(&kmm->track, start, last);
}

static bool batch_is_full(const struct ksm_batch *batch)
{
	return batch->considered >= batch->max || batch->nr_items >= KSM_BATCH_PAGES;
}

static void add_item(struct ksm_batch *batch, unsigned long addr, struct page *page,
		     enum ksm_sight sight)
{
	batch->items[batch->nr_items++] = (struct ksm_item){
		.addr = addr,
		.page = page,
		.pfn = page ? page_to_pfn(page) : 0,
		.sight = sight,
	};
}

/*
 * Nothing is mapped from batch->next to @last: whatever the records know of it
 * is past. Records of merged folios that are locked stay for the next pass.
 * Returns whether the batch came to the end of it.
 */
static bool forget_gap(struct ksm_batch *batch, unsigned long last)
{
	struct ksm_track *track = &batch->kmm->track;
	unsigned long start = batch->next, addr = start;
	struct ksm_record rec;

	while (ksm_track_next(track, &addr, last, &rec)) {
		if (batch->forgotten++ >= KSM_BATCH_FORGET) {
			batch->next = addr;
			if (addr > start)
				ksm_track_trim(track, start, addr - 1);
			return false;
		}
		ksm_forget_record(batch->kmm, rec, false);
		if (last - addr < PAGE_SIZE)
			break;
		addr += PAGE_SIZE;
	}
	ksm_track_trim(track, start, last);
	batch->next = last + 1;
	return true;
}

static struct ksm_record record_at(const struct ksm_batch *batch, unsigned long addr)
{
	return (struct ksm_record){
		.block = batch->block,
		.slot = (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1),
	};
}

/* Pages in a per-CPU list of the LRU look held, too; the next pass sees them. */
static bool folio_is_busy(struct folio *folio)
{
	if (folio_maybe_dma_pinned(folio))
		return true;
	return !folio_test_large(folio) &&
	       folio_ref_count(folio) > folio_mapcount(folio) + folio_test_swapcache(folio);
}

static void see_nothing(struct ksm_batch *batch, unsigned long addr)
{
	if (batch->block && ksm_record_state(record_at(batch, addr)) != KSM_UNSEEN)
		add_item(batch, addr, NULL, KSM_SIGHT_GONE);
}

/*
 * Whether a site's folio may come back to where this entry is: out of the swap
 * cache, from a migration or from a device's memory. Nobody else's lock is waited for.
 */
static bool may_return(const struct ksm_site *site, softleaf_t entry)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, false);
	bool same;

	if (IS_ERR_OR_NULL(folio))
		return folio;
	same = softleaf_is_migration(entry) ||
	       softleaf_is_device_private(entry) ||
	       (softleaf_is_swap(entry) && folio_matches_swap_entry(folio, entry));
	folio_unlock(folio);
	folio_put(folio);
	return same;
}

static void see_absent(struct ksm_batch *batch, unsigned long addr, softleaf_t entry)
{
	struct ksm_record rec;

	if (!batch->block)
		return;
	rec = record_at(batch, addr);
	if (ksm_record_state(rec) == KSM_MERGED && may_return(ksm_record_word(rec).site, entry))
		return;
	see_nothing(batch, addr);
}

/* Called with the page table lock held, which keeps the mapped page in being. */
static void see_page(struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	struct folio *folio = page_folio(page);

	/* One that failed stays mapped, and its sites lead to those who map it. */
	if (folio_test_ksm(folio) && PageHWPoison(page))
		return;
	if (!folio_test_anon(folio) || folio_is_zone_device(folio) || PageHWPoison(page)) {
		see_nothing(batch, addr);
		return;
	}
	batch->considered++;
	if (folio_test_ksm(folio)) {
		if (batch->block) {
			struct ksm_record rec = record_at(batch, addr);

			if (ksm_record_state(rec) == KSM_MERGED &&
			    ksm_stable_owns(ksm_record_word(rec).site->stable, folio))
				return;
		}
		add_item(batch, addr, NULL, KSM_SIGHT_MERGED);
		return;
	}
	add_item(batch, addr, page, folio_is_busy(folio) ? KSM_SIGHT_BUSY : KSM_SIGHT_PAGE);
	folio_get(folio);
}

static void enter_block(struct ksm_batch *batch, unsigned long addr)
{
	batch->block = ksm_track_block(&batch->kmm->track, addr);
}

static void see_pte(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		    pte_t pte)
{
	struct page *page;

	if (pte_none(pte)) {
		see_nothing(batch, addr);
	} else if (!pte_present(pte)) {
		see_absent(batch, addr, softleaf_from_pte(pte));
	} else {
		page = vm_normal_page(vma, addr, pte);
		if (page)
			see_page(batch, addr, page);
		else
			see_nothing(batch, addr);
	}
}

/* Returns where it stopped. */
static unsigned long walk_ptes(struct ksm_batch *batch, struct vm_area_struct *vma, pte_t *ptep,
			       unsigned long addr, unsigned long end)
{
	enter_block(batch, addr);
	for (; addr < end && !batch_is_full(batch); addr += PAGE_SIZE, ptep++) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			enter_block(batch, addr);
		see_pte(batch, vma, addr, ptep_get(ptep));
	}
	return addr;
}

static unsigned long walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t pmd,
			       unsigned long addr, unsigned long end)
{
	struct page *page = pmd_present(pmd) ? vm_normal_page_pmd(vma, addr, pmd) : NULL;

	/* Migrating, or the huge zero page: as it was until the next pass. */
	if (!page)
		return end;
	page += (addr & ~PMD_MASK) >> PAGE_SHIFT;
	enter_block(batch, addr);
	for (; addr < end && !batch_is_full(batch); addr += PAGE_SIZE, page++) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			enter_block(batch, addr);
		see_page(batch, addr, page);
	}
	return addr;
}

static int walk_pmd(pmd_t *pmd, unsigned long addr, unsigned long end, struct mm_walk *walk)
{
	struct ksm_batch *batch = walk->private;
	spinlock_t *ptl;
	pte_t *ptep;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		batch->next = walk_huge(batch, walk->vma, *pmd, addr, end);
		spin_unlock(ptl);
	} else {
		ptep = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
		if (!ptep) {
			walk->action = ACTION_AGAIN;
			return 0;
		}
		batch->next = walk_ptes(batch, walk->vma, ptep, addr, end);
		pte_unmap_unlock(ptep, ptl);
	}
	return batch_is_full(batch) || ++batch->tables >= KSM_BATCH_TABLES;
}

/* No page table. */
static int walk_hole(unsigned long addr, unsigned long end, int depth, struct mm_walk *walk)
{
	return !forget_gap(walk->private, end - 1);
}

static const struct mm_walk_ops collect_ops = {
	.pmd_entry = walk_pmd,
	.pte_hole = walk_hole,
	.walk_lock = PGWALK_RDLOCK,
};

/* From batch->next on, until the batch is full or the mm ends. */
static void collect(struct ksm_batch *batch)
{
	struct ksm_mm *kmm = batch->kmm;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, kmm->slot.mm, batch->next);

	for_each_vma(vmi, vma) {
		unsigned long start = max(vma->vm_start, batch->next);

		if (!ksm_vma_mergeable(vma))
			continue;
		if (batch->next < start && !forget_gap(batch, start - 1)) {
			batch->full = true;
			return;
		}
		batch->full = walk_page_range_vma(vma, start, vma->vm_end, &collect_ops, batch);
		if (batch->full)
			return;
		batch->next = vma->vm_end;
	}
	batch->full = !forget_gap(batch, ULONG_MAX);
}

static void hash_items(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr_items; i++) {
		struct ksm_item *item = &batch->items[i];

		if (!item->page)
			continue;
		item->sum = ksm_page_checksum(item->page);
		put_page(item->page);
		item->page = NULL;
	}
}

/* The page is no candidate, or not any more: one that is pinned would be in the way. */
static void watch(struct ksm_mm *kmm, struct ksm_record rec, u64 sum)
{
	if (ksm_forget_record(kmm, rec, false))
		ksm_track_set(&kmm->track, rec, KSM_HASHED, (union ksm_word){ .sum = sum });
}

/*
 * The hashing way to tell change: the checksum is the same as at the last
 * visit, a pass ago. If not, it is noted for the next. (The dirty-bit way ends
 * in the same two answers; its records are KSM_CLEANED meanwhile.)
 */
static bool unchanged_since_last_pass(struct ksm_mm *kmm, struct ksm_record rec, u64 sum)
{
	union ksm_word word = ksm_record_word(rec);

	switch (ksm_record_state(rec)) {
	case KSM_HASHED:
		if (word.sum == sum)
			return true;
		break;
	case KSM_CANDIDATE:
		if (word.candidate->node.key == sum)
			return true;
		break;
	default:
		break;
	}
	watch(kmm, rec, sum);
	return false;
}

static bool merge_with_stable(struct ksm_mm *kmm, struct vm_area_struct *vma,
			      const struct ksm_item *item)
{
	struct folio *found[KSM_KEY_TWINS];
	unsigned int i, nr = ksm_stable_find(item->sum, found);
	bool merged = false;

	for (i = 0; i < nr; i++) {
		if (!merged)
			merged = !ksm_merge(kmm, vma, item->addr, found[i]);
		folio_put(found[i]);
	}
	return merged;
}

/* Without a partner the page waits for one; it may be waiting already. */
static void file_as_candidate(struct ksm_mm *kmm, const struct ksm_item *item)
{
	struct ksm_record rec;

	if (ksm_track_find(&kmm->track, item->addr, &rec) && ksm_record_state(rec) == KSM_HASHED)
		ksm_unstable_add(kmm, item->addr, rec, item->sum);
}

static void find_partner(struct ksm_batch *batch, struct vm_area_struct *vma,
			 struct ksm_item *item)
{
	struct ksm_mm *kmm = batch->kmm;
	struct ksm_partner partner;
	int err;

	if (!ksm_unstable_find(item->sum, kmm, item->addr, &partner)) {
		file_as_candidate(kmm, item);
		return;
	}
	if (partner.kmm != kmm) {
		batch->pairs[batch->nr_pairs++] = (struct ksm_pair){
			.item = item,
			.partner = partner,
			.err = -EAGAIN,
		};
		return;
	}
	err = ksm_promote(kmm, partner.addr, item->sum, item->pfn);
	ksm_mm_put(kmm);
	if (!err)
		merge_with_stable(kmm, vma, item);
	else if (err == -ENOENT)
		file_as_candidate(kmm, item);
}

static void file_page(struct ksm_batch *batch, struct ksm_item *item)
{
	struct ksm_mm *kmm = batch->kmm;
	struct vm_area_struct *vma;
	struct ksm_record rec;

	if (ksm_track_get(&kmm->track, item->addr, KSM_GFP, &rec))
		return;
	if (!unchanged_since_last_pass(kmm, rec, item->sum))
		return;
	if (item->sight == KSM_SIGHT_BUSY) {
		watch(kmm, rec, item->sum);
		return;
	}
	vma = ksm_vma_lookup(kmm->slot.mm, item->addr);
	if (!vma || merge_with_stable(kmm, vma, item))
		return;
	find_partner(batch, vma, item);
}

static void file_merged(struct ksm_mm *kmm, const struct ksm_item *item)
{
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, item->addr);
	struct page *page = vma ? ksm_get_page(vma, item->addr) : NULL;

	if (!page)
		return;
	ksm_adopt(kmm, vma, item->addr, page_folio(page));
	put_page(page);
}

static void file_gone(struct ksm_mm *kmm, const struct ksm_item *item)
{
	struct ksm_record rec;

	if (ksm_track_find(&kmm->track, item->addr, &rec))
		ksm_forget_record(kmm, rec, false);
}

/* Lets writers of the mm's layout in early: the rest is left for the next batch. */
static void file_items(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr_items; i++) {
		struct ksm_item *item = &batch->items[i];

		if (i && mmap_lock_is_contended(batch->kmm->slot.mm)) {
			batch->next = item->addr;
			batch->full = true;
			break;
		}
		switch (item->sight) {
		case KSM_SIGHT_PAGE:
		case KSM_SIGHT_BUSY:
			file_page(batch, item);
			break;
		case KSM_SIGHT_MERGED:
			file_merged(batch->kmm, item);
			break;
		case KSM_SIGHT_GONE:
			file_gone(batch->kmm, item);
			break;
		}
	}
	if (i)
		ksm_track_trim(&batch->kmm->track, batch->items[0].addr,
			       batch->items[i - 1].addr);
}

static bool lock_mm(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;

	/* A look without the lock: exit holds the mmap_lock for long. */
	if (READ_ONCE(kmm->gone))
		return false;
	mmap_read_lock(mm);
	if (ksm_mm_lock(kmm))
		return true;
	mmap_read_unlock(mm);
	return false;
}

static void unlock_mm(struct ksm_mm *kmm)
{
	ksm_mm_unlock(kmm);
	mmap_read_unlock(kmm->slot.mm);
}

/* First the partners, each mm of theirs locked once for a run of them ... */
static void promote_partners(struct ksm_batch *batch)
{
	struct ksm_mm *locked = NULL;
	unsigned int i;

	for (i = 0; i < batch->nr_pairs; i++) {
		struct ksm_pair *pair = &batch->pairs[i];
		struct ksm_partner *partner = &pair->partner;

		if (locked != partner->kmm) {
			if (locked)
				unlock_mm(locked);
			locked = lock_mm(partner->kmm) ? partner->kmm : NULL;
		}
		if (locked)
			pair->err = ksm_promote(locked, partner->addr, pair->item->sum,
						pair->item->pfn);
	}
	if (locked)
		unlock_mm(locked);
}

/*
 * ... then the pages of this mm. A page whose partner turned out to be none
 * waits in its place; one whose partner was busy tries again in the next pass.
 */
static void finish_pairs(struct ksm_batch *batch)
{
	struct ksm_mm *kmm = batch->kmm;
	unsigned int i;

	if (!lock_mm(kmm))
		return;
	for (i = 0; i < batch->nr_pairs; i++) {
		const struct ksm_pair *pair = &batch->pairs[i];
		struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, pair->item->addr);

		/* One that was promoted for an earlier pair is in the stable forest. */
		if (vma && !merge_with_stable(kmm, vma, pair->item) && pair->err == -ENOENT)
			file_as_candidate(kmm, pair->item);
	}
	unlock_mm(kmm);
}

static void put_partners(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr_pairs; i++)
		ksm_mm_put(batch->pairs[i].partner.kmm);
}

/* An mm that has nothing to merge any more is taken off until it has. */
static void retire_if_idle(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;

	if (mm_flags_test(MMF_VM_MERGE_ANY, mm) || ksm_process_mergeable(mm))
		return;
	if (!ksm_track_records(&kmm->track))
		ksm_mm_retire(kmm);
}

/**
 * ksm_batch_run - look at some pages of a registered mm
 * @batch: room
 * @kmm: the mm, with a reference; goes on at kmm->next
 * @max: how many pages to consider at most
 * @done: result: the pass is through with this mm
 *
 * Context: ksm_control held; sleeps for the mm's locks only.
 * Return: how many pages were considered.
 */
unsigned int ksm_batch_run(struct ksm_batch *batch, struct ksm_mm *kmm, unsigned int max,
			   bool *done)
{
	batch->kmm = kmm;
	batch->max = min(max, KSM_BATCH_PAGES);
	batch->considered = 0;
	batch->tables = 0;
	batch->forgotten = 0;
	batch->next = kmm->next;
	batch->full = false;
	batch->nr_items = 0;
	batch->nr_pairs = 0;

	*done = true;
	if (!lock_mm(kmm))
		return 0;
	collect(batch);
	hash_items(batch);
	file_items(batch);
	*done = !batch->full;
	kmm->next = batch->full ? batch->next : 0;
	if (*done)
		retire_if_idle(kmm);
	unlock_mm(kmm);

	promote_partners(batch);
	if (batch->nr_pairs)
		finish_pairs(batch);
	put_partners(batch);
	return batch->considered;
}
