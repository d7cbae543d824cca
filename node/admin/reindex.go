package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// Reindexing recomputes or rebuilds what an index has.
type Reindexing interface {
	// Reindex starts a job on this node's copy. What it would lose without need
	// is refused, with the command that goes on.
	Reindex(ctx context.Context, r ReindexRequest) (Job, error)
}

// ReindexRequest says what: a slot, or an account with one of its mailboxes or
// all. By is filled in by the server.
type ReindexRequest struct {
	Slot      slot.ID      `json:"slot"`
	Address   slot.Address `json:"address,omitempty"` // instead of Slot
	Mailbox   string       `json:"mailbox,omitempty"`
	FromPacks bool         `json:"from_packs,omitempty"` // rebuild the index
	Alone     bool         `json:"alone,omitempty"`      // also while Raft lists other copies
	By        string       `json:"-"`
}

func (s *Server) reindexRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/reindex", change(s, "reindex", requestTimeout, func(ctx context.Context, q ReindexRequest, by string) (Job, error) {
		q.By = by
		return s.backend.Reindexing.Reindex(ctx, q)
	}))
}

// Reindex starts the job.
func (c *Client) Reindex(ctx context.Context, r ReindexRequest) (j Job, err error) {
	return j, c.post(ctx, "/v1/reindex", r, &j)
}
