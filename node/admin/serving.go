package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// Serving brings back a copy that has stopped.
type Serving interface {
	// Serve opens this node's copy of a slot again, when it has stopped or was refused.
	// One that is open is ExitNothing. It never changes who is master.
	Serve(ctx context.Context, r ServeRequest) (Served, error)
}

// ServeRequest names the slot. By is filled in by the server.
type ServeRequest struct {
	Slot slot.ID `json:"slot"`
	Plan bool    `json:"plan,omitempty"` // only say what would be done
	By   string  `json:"-"`
}

// Served is what became of a copy.
type Served struct {
	Slot    slot.ID       `json:"slot"`
	Node    slot.NodeName `json:"node"`
	Stopped string        `json:"stopped"`           // why it was not open
	Opened  bool          `json:"opened"`            // false: only a plan
	Opening string        `json:"opening,omitempty"` // what it does, when that takes longer
	State   string        `json:"state,omitempty"`   // what the copy does now, as "serves the slot as its master"
}

func (s *Server) servingRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/serve", change(s, "serve slot", requestTimeout, func(ctx context.Context, q ServeRequest, by string) (Served, error) {
		q.By = by
		return s.backend.Serving.Serve(ctx, q)
	}))
}

// Serve opens this node's copy of a slot again.
func (c *Client) Serve(ctx context.Context, r ServeRequest) (v Served, err error) {
	return v, c.post(ctx, "/v1/serve", r, &v)
}
