package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// RemoveRequest removes a member. With Try it is only said whether that may be. By is
// filled in by the server.
type RemoveRequest struct {
	Node slot.NodeName `json:"node"`
	Try  bool          `json:"try,omitempty"`
	By   string        `json:"-"`
}

// Need is a slot for whose sake a node may not be removed.
type Need struct {
	Slot   slot.ID `json:"slot"`
	Master bool    `json:"master,omitempty"` // the node is its master
	Why    string  `json:"why"`
}

// Removed is what became of a removal. With Needs nothing was done.
type Removed struct {
	Node  slot.NodeName `json:"node"`
	Done  bool          `json:"done"`
	Left  bool          `json:"left"` // Raft's configuration is without it; else that follows
	Needs []Need        `json:"needs"`
}

// Remove removes a member, or says which slots need it.
func (c *Client) Remove(ctx context.Context, r RemoveRequest) (out Removed, err error) {
	return out, c.post(ctx, "/v1/members/remove", r, &out)
}

func (s *Server) removeRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/members/remove", change(s, "remove node", requestTimeout, func(ctx context.Context, q RemoveRequest, by string) (Removed, error) {
		q.By = by
		out, err := s.backend.Cluster.Remove(ctx, q)
		out.Needs = orEmpty(out.Needs)
		return out, err
	}))
}
