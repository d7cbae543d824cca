package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// Mending looks for damage and says what is lost.
type Mending interface {
	// Audit starts a job for each slot, on this node's copies. A slot of which
	// this node has no copy is refused with the name of a node that has one.
	Audit(ctx context.Context, r AuditRequest) (Jobs, error)
	// Missing lists the messages that no copy has a body of, of some slots or all.
	Missing(ctx context.Context, only []slot.ID) (MissingMessages, error)
}

// AuditRequest asks for audits. By is filled in by the server.
type AuditRequest struct {
	Slots           []slot.ID `json:"slots,omitempty"`
	All             bool      `json:"all,omitempty"` // of this node's copies
	Repair          bool      `json:"repair,omitempty"`
	RateBytesPerSec int64     `json:"rate_bytes_per_sec,omitempty"` // 0: the default
	By              string    `json:"-"`
}

// MissingMessages is the answer of `slot missing`. Unknown names the slots that
// could not be asked.
type MissingMessages struct {
	Messages []MissingMessage `json:"messages"`
	Unknown  []slot.ID        `json:"unknown,omitempty"`
	Silent   []slot.NodeName  `json:"silent,omitempty"` // masters that were waited for in vain
}

// MissingMessage is a message whose body no copy has. Its UID is expunged.
type MissingMessage struct {
	Slot    slot.ID      `json:"slot"`
	Address slot.Address `json:"address"`
	Mailbox string       `json:"mailbox"` // as it was called
	UID     uint32       `json:"uid"`
	Bytes   int64        `json:"bytes"`
	Date    string       `json:"date"` // internal date, UTC
	GUID    string       `json:"guid"` // SHA-256 of the body
	AgoS    int64        `json:"ago_s"`
}

func (s *Server) mendRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/audits", change(s, "audit", requestTimeout, func(ctx context.Context, q AuditRequest, by string) (Jobs, error) {
		q.By = by
		return s.backend.Mending.Audit(ctx, q)
	}))
	mux.Handle("GET /v1/missing", read(s, func(ctx context.Context, r *http.Request) (MissingMessages, error) {
		var only []slot.ID
		if text := r.URL.Query().Get("slot"); text != "" {
			id, err := slot.ParseID(text)
			if err != nil {
				return MissingMessages{}, &Error{Text: err.Error(), Exit: ExitUsage, Next: "mailnode slot list"}
			}
			only = append(only, id)
		}
		m, err := s.backend.Mending.Missing(ctx, only)
		m.Messages = orEmpty(m.Messages)
		return m, err
	}))
}

// Audit starts audits.
func (c *Client) Audit(ctx context.Context, r AuditRequest) (j Jobs, err error) {
	return j, c.post(ctx, "/v1/audits", r, &j)
}

// Missing lists messages that no copy has a body of; "" asks all slots.
func (c *Client) Missing(ctx context.Context, slotID string) (m MissingMessages, err error) {
	return m, c.get(ctx, "/v1/missing?slot="+slotID, &m)
}
