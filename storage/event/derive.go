package event

import "mailnode/storage"

// What a copy computes again when it no longer believes its derived records.

// Count adds a live message to the counters and the digest.
func (st *MailboxStats) Count(m *MessageRecord) { st.count(m, 1) }

// ChangesOf is the span of a mailbox's change index.
func ChangesOf(r storage.Ref) Span { return SpanOf(refKey(PrefixChanged, r, 0)) }

// SummariesOf is the span of a mailbox's summaries.
func SummariesOf(r storage.Ref) Span { return SpanOf(refKey(PrefixSummary, r, 0)) }
