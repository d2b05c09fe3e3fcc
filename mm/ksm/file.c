// SPDX-License-Identifier: GPL-2.0-only
/*
 * Filing: what becomes of the pages of a batch once they are hashed.
 *
 * A page that stayed the same merges with an equal one, waits for one as a candidate, or
 * settles; one that changed is watched. Merging finds the page again and trusts nothing
 * that was seen before. Where the partner is a candidate of another mm the pair is left
 * for later, as no two mms are ever locked at a time.
 */
#include <linux/jiffies.h>
#include <linux/mm.h>

#include "batch.h"

/* What the dirty bit does not vouch for is not to be trusted when it does again. */
static void set_tag(struct ksm_record rec, const struct ksm_item *item)
{
	ksm_record_set_tag(rec, item->dirty_bit ? item->pfn : KSM_NO_PFN);
}

/**
 * ksm_forget_gone - nothing is mapped any more where a record is
 * @batch: where the walk is
 * @addr: of the record
 * @rec: the record
 *
 * Context: the mm locked; does not sleep. The record of a merged folio that is locked
 * stays for the next pass.
 */
void ksm_forget_gone(const struct ksm_batch *batch, unsigned long addr, struct ksm_record rec)
{
	bool merged = ksm_record_state(rec) == KSM_MERGED;
	u32 lived = merged ? (u32)batch->now - ksm_record_word(rec).site->since : 0;

	if (ksm_forget_record(batch->kmm, addr, rec, false) && merged)
		ksm_fate_ended(&batch->kmm->fate, batch->unit, lived);
}

/*
 * A page that waits in this batch may have been promoted for an earlier one of
 * it, or for another mm's: then it is merged, and its record is right.
 */
static bool was_merged(struct ksm_mm *kmm, struct ksm_record rec, unsigned long addr)
{
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, addr);
	struct page *page;
	bool merged;

	if (ksm_record_state(rec) != KSM_MERGED || !vma)
		return false;
	page = ksm_get_page(vma, addr);
	/* It may be under migration or in swap, and come back: the next walk will see. */
	if (!page)
		return true;
	merged = ksm_stable_owns(ksm_record_word(rec).site->stable, page_folio(page));
	put_page(page);
	return merged;
}

/* A page that was touched may be clean and have changed all the same. */
static bool dirty_bit_told(const struct ksm_item *item)
{
	return item->dirty_bit && !item->touched;
}

/*
 * A merged page was written to: how soon tells how long the next one has to wait. The
 * record may keep its site for now, but the next visit will not know.
 */
static void note_rewritten(const struct ksm_batch *batch, struct ksm_record rec)
{
	u32 lived = (u32)batch->now - ksm_record_word(rec).site->since;

	ksm_fate_ended(&batch->kmm->fate, batch->unit, lived);
	ksm_record_set_level(rec, ksm_backoff_rewritten(batch->unit, ksm_record_level(rec), lived));
}

/* The page is no candidate, or not any more: a later pass will tell. */
static void watch(const struct ksm_batch *batch, struct ksm_record rec,
		  const struct ksm_item *item)
{
	union ksm_word word = { .key = item->key };
	struct ksm_mm *kmm = batch->kmm;
	enum ksm_state state = KSM_HASHED;

	if (was_merged(kmm, rec, item->addr))
		return;
	if (item->in_round && ksm_record_state(rec) == KSM_SETTLED)
		ksm_huge_has_news(kmm, item->addr);
	if (item->rewritten && ksm_record_state(rec) == KSM_MERGED)
		note_rewritten(batch, rec);
	if (dirty_bit_told(item)) {
		state = KSM_CLEANED;
		word.since = batch->now;
	}
	if (ksm_replace_record(kmm, item->addr, rec, state, word))
		set_tag(rec, item);
}

/*
 * There is a partner, but nothing can be gained for now, and nobody tells when that
 * changes: the page waits, each time longer.
 */
static void hold_off(const struct ksm_batch *batch, struct ksm_record rec,
		     const struct ksm_item *item)
{
	unsigned int level = ksm_backoff_changed(ksm_record_state(rec), ksm_record_level(rec));

	watch(batch, rec, item);
	if (ksm_record_state(rec) != KSM_MERGED)
		ksm_record_set_level(rec, level);
}

/*
 * Whether the page stayed the same since the last visit, a pass ago. The dirty
 * bit has told it where that can be; a key that is known must be the same all
 * the same. Elsewhere, and of a page that was touched, it is the key that tells.
 */
static bool stayed_the_same(struct ksm_record rec, const struct ksm_item *item)
{
	union ksm_word word = ksm_record_word(rec);

	switch (ksm_record_state(rec)) {
	case KSM_CLEANED:
		/* Most pages of a huge page stay the same when some are written to. */
		return dirty_bit_told(item) ||
		       (item->in_round && ksm_record_has_tag(rec, item->pfn));
	case KSM_HASHED:
	case KSM_SETTLED:
		return word.key == item->key;
	case KSM_CANDIDATE:
		return word.candidate->node.key == item->key;
	default:
		return false;
	}
}

/*
 * How trying to merge a page ended:
 * 0		it is merged
 * -ENOENT	there is nobody to merge it with
 * -EXFULL	likewise, and many different pages have its key: a further one becomes no
 *		merged page before it has a partner
 * -EMLINK	nothing would be saved by it now
 * -EDQUOT	there is no room for a copy that it takes
 * other	there may be, but not now: it tries again in the next pass
 */
static int merge_with_stable(struct ksm_mm *kmm, struct vm_area_struct *vma,
			     const struct ksm_item *item)
{
	struct folio *found[KSM_KEY_TWINS];
	unsigned int i, nr = ksm_stable_find(item->key, found), different = 0;
	int err = -ENOENT;

	for (i = 0; i < nr; i++) {
		bool done = !err || err == -EMLINK;
		int one = done ? err : ksm_merge(kmm, vma, item->addr, found[i]);

		if (one == -ENOENT)
			different++;
		/* Full by now, on another node or given up: as if it was not there. */
		else if (one != -ENOSPC)
			err = one;
		folio_put(found[i]);
	}
	return err == -ENOENT && different == KSM_KEY_TWINS ? -EXFULL : err;
}

/*
 * Only a page of a folio tells those who drop a file's pages that it is a private copy:
 * they would take the zero page away, and the process would see the file.
 */
static int merge_with_zero(struct ksm_mm *kmm, struct vm_area_struct *vma,
			   const struct ksm_item *item)
{
	if (!READ_ONCE(ksm_use_zero_pages) || mm_forbids_zeropage(kmm->slot.mm) ||
	    !vma_is_anonymous(vma) || !ksm_key_is_zero(item->key, pfn_to_nid(item->pfn)))
		return -ENOENT;
	return ksm_merge_zero(kmm, vma, item->addr);
}

static void rest(struct ksm_mm *kmm, struct ksm_record rec, const struct ksm_item *item)
{
	ksm_track_set(&kmm->track, rec, KSM_SETTLED, (union ksm_word){ .key = item->key });
	set_tag(rec, item);
}

/* A page that is refreshed was not asked about by the walk. In a sweep all were asked about. */
static bool has_settled_twin(const struct ksm_batch *batch, enum ksm_state state,
			     const struct ksm_item *item)
{
	if (state != KSM_SETTLED || batch->sweeping)
		return false;
	return item->again || ksm_sight_renew(item->key);
}

/* Whether others would keep the page: not worth asking as long as it has no twin. */
static bool is_kept(struct ksm_mm *kmm, const struct ksm_item *item)
{
	struct vm_area_struct *vma = item->shared ? ksm_vma_lookup(kmm->slot.mm, item->addr) : NULL;

	return vma && ksm_is_kept(vma, item->addr);
}

/*
 * Nobody has an equal page. One that is new is noted; if its key was seen
 * before, its twin may have settled: the page waits, and the key is wanted. Where
 * too many wait already it rests until it is refreshed. One that is settled waits, too,
 * if its twin cannot be had now, or seems to be a settled one; and as long as the key is
 * wanted nobody settles.
 */
static void settle(struct ksm_batch *batch, const struct ksm_item *item)
{
	struct ksm_mm *kmm = batch->kmm;
	struct ksm_record rec;
	enum ksm_state state;
	bool twin;
	int err;

	if (!ksm_track_find(&kmm->track, item->addr, &rec))
		return;
	state = ksm_record_state(rec);
	twin = has_settled_twin(batch, state, item) || item->missed;
	if (twin)
		ksm_sight_want(item->key);
	if (state == KSM_CANDIDATE && !ksm_sight_wanted(item->key) &&
	    ksm_candidate_waited(ksm_record_word(rec).candidate, batch->pass))
		ksm_unstable_settle(kmm, rec);
	if ((state == KSM_SETTLED && !twin) || state == KSM_CANDIDATE || state == KSM_MERGED) {
		/* A filter may have missed it. */
		ksm_sight_note(item->key);
		return;
	}
	if (!ksm_sight_note(item->key) && !twin) {
		rest(kmm, rec, item);
		return;
	}
	if (is_kept(kmm, item)) {
		hold_off(batch, rec, item);
		return;
	}
	err = ksm_unstable_add(kmm, item->addr, rec, item->key);
	if (!err) {
		/* A merge that failed has taken the tag away. */
		set_tag(rec, item);
		ksm_sight_want(item->key);
	} else if (err == -ENOSPC) {
		rest(kmm, rec, item);
	}
}

static void file_merge_result(struct ksm_batch *batch, const struct ksm_item *item, int err)
{
	struct ksm_record rec;

	if (err == -ENOENT || err == -EXFULL) {
		settle(batch, item);
		return;
	}
	if (!ksm_track_find(&batch->kmm->track, item->addr, &rec))
		return;
	if (err == -EMLINK || err == -EDQUOT) {
		hold_off(batch, rec, item);
	} else if (err) {
		watch(batch, rec, item);
	} else if (ksm_record_state(rec) == KSM_MERGED) {
		ksm_fate_merged(&batch->kmm->fate);
		batch->found += !ksm_record_level(rec);
	}
}

/*
 * How making a merged page of the candidate ended. If that is for the page to wait for it,
 * the page has none for now.
 */
static int promoted(struct ksm_item *item, int err)
{
	item->missed |= err == -EBUSY;
	return err == -EBUSY ? -ENOENT : err;
}

/* @defer: leave a partner in another mm for later; else it is none. */
static int find_partner(struct ksm_batch *batch, struct vm_area_struct *vma,
			struct ksm_item *item, bool defer)
{
	struct ksm_mm *kmm = batch->kmm;
	struct ksm_partner partner;
	int err;

	if (!ksm_unstable_find(item->key, kmm, item->addr, &partner)) {
		item->missed |= partner.busy;
		return -ENOENT;
	}
	if (partner.kmm != kmm && !defer) {
		ksm_mm_put(partner.kmm);
		return -ENOENT;
	}
	if (is_kept(kmm, item)) {
		ksm_mm_put(partner.kmm);
		return -EMLINK;
	}
	if (partner.kmm != kmm) {
		batch->pairs[batch->nr_pairs++] = (struct ksm_pair){
			.item = item,
			.partner = partner,
			.err = -ENOENT,
		};
		return -EINPROGRESS;
	}
	err = ksm_promote(kmm, partner.addr, item->key, item->pfn, item->shared);
	ksm_mm_put(kmm);
	return promoted(item, err) ?: merge_with_stable(kmm, vma, item);
}

/* In a pass that is not its time to be refreshed a settled page only waits. */
static bool nothing_new(struct ksm_record rec, const struct ksm_item *item)
{
	return ksm_record_state(rec) == KSM_SETTLED && !item->refresh && !item->again &&
	       !ksm_sight_wanted(item->key);
}

static void file_page(struct ksm_batch *batch, struct ksm_item *item)
{
	struct ksm_mm *kmm = batch->kmm;
	struct vm_area_struct *vma;
	struct ksm_record rec;
	int err;

	if (ksm_track_get(&kmm->track, item->addr, KSM_GFP, &rec))
		return;
	if (!stayed_the_same(rec, item) || item->found == KSM_FOUND_BUSY) {
		watch(batch, rec, item);
		return;
	}
	set_tag(rec, item);
	if (item->in_round && ksm_record_state(rec) == KSM_HASHED)
		ksm_huge_has_news(kmm, item->addr);
	if (nothing_new(rec, item)) {
		item->again = ksm_sight_renew(item->key);
		if (!item->again)
			return;
	}
	vma = ksm_vma_lookup(kmm->slot.mm, item->addr);
	if (!vma)
		return;
	err = merge_with_zero(kmm, vma, item);
	if (err == -ENOENT)
		err = merge_with_stable(kmm, vma, item);
	if (err == -ENOENT)
		err = find_partner(batch, vma, item, true);
	if (err != -EINPROGRESS)
		file_merge_result(batch, item, err);
}

/* The page where a merged folio was; its dirty bit was cleared. */
static void file_changed(const struct ksm_batch *batch, const struct ksm_item *item)
{
	struct ksm_record rec;

	if (ksm_track_find(&batch->kmm->track, item->addr, &rec))
		watch(batch, rec, item);
}

static void file_merged(struct ksm_mm *kmm, const struct ksm_item *item)
{
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, item->addr);
	struct page *page = vma ? ksm_get_page(vma, item->addr) : NULL;

	if (!page)
		return;
	if (!ksm_adopt(kmm, vma, item->addr, page_folio(page)))
		ksm_fate_merged(&kmm->fate);
	put_page(page);
}

static void file_gone(const struct ksm_batch *batch, const struct ksm_item *item)
{
	struct ksm_record rec;

	if (ksm_track_find(&batch->kmm->track, item->addr, &rec))
		ksm_forget_gone(batch, item->addr, rec);
}

/**
 * ksm_file_items - file all pages of a batch
 * @batch: its items are hashed; gets pairs
 *
 * Context: the mmap_lock and the mm locked; waits for no folio.
 */
void ksm_file_items(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr_items; i++) {
		struct ksm_item *item = &batch->items[i];

		switch (item->found) {
		case KSM_FOUND_PAGE:
		case KSM_FOUND_BUSY:
			file_page(batch, item);
			break;
		case KSM_FOUND_CHANGED:
			file_changed(batch, item);
			break;
		case KSM_FOUND_MERGED:
			file_merged(batch->kmm, item);
			break;
		case KSM_FOUND_GONE:
			file_gone(batch, item);
			break;
		}
	}
	if (i)
		ksm_track_trim(&batch->kmm->track, batch->items[0].addr,
			       batch->items[i - 1].addr);
}

/**
 * ksm_file_pair - file a page whose partner was another mm's candidate
 * @batch: whose page
 * @pair: the page, and how the candidate's promotion went
 *
 * A page whose partner turned out to be none, or to be full by now, waits in its place,
 * or merges with another that does.
 *
 * Context: the mmap_lock and the mm locked; waits for no folio.
 */
void ksm_file_pair(struct ksm_batch *batch, const struct ksm_pair *pair)
{
	struct ksm_mm *kmm = batch->kmm;
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, pair->item->addr);
	int err;

	if (!vma)
		return;
	/* One that was promoted for an earlier pair is in the stable forest. */
	err = merge_with_stable(kmm, vma, pair->item);
	if (err == -ENOENT && pair->err)
		err = promoted(pair->item, pair->err);
	if (err == -ENOENT)
		err = find_partner(batch, vma, pair->item, false);
	file_merge_result(batch, pair->item, err);
}
