package admin

import (
	"context"
	"net/http"
	"net/url"

	"mailnode/storage/slot"
)

// AlonePlan is what serving a slot without a quorum would mean, on the node that was
// asked.
type AlonePlan struct {
	Slot  slot.ID       `json:"slot"`
	Epoch slot.Epoch    `json:"epoch"`
	Node  slot.NodeName `json:"node"`
	Text  string        `json:"text"`
}

// AloneRequest lets a slot be served without a quorum. By is filled in by the server.
type AloneRequest struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"` // as the person has seen it
	By    string     `json:"-"`
}

// AloneOutcome says that it is served.
type AloneOutcome struct {
	Text string `json:"text"`
}

// ServingAlone lets a restarted master serve by a person's word in a quorum's place.
type ServingAlone interface {
	Alone(ctx context.Context, id slot.ID) (AlonePlan, error)
	Serve(ctx context.Context, r AloneRequest) (AloneOutcome, error)
}

// Alone asks what it would mean.
func (c *Client) Alone(ctx context.Context, id slot.ID) (p AlonePlan, err error) {
	return p, c.get(ctx, "/v1/alone/"+url.PathEscape(id.String()), &p)
}

// ServeAlone does it.
func (c *Client) ServeAlone(ctx context.Context, r AloneRequest) (out AloneOutcome, err error) {
	return out, c.post(ctx, "/v1/alone", r, &out)
}

func (s *Server) aloneRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/alone/{id}", read(s, func(ctx context.Context, r *http.Request) (AlonePlan, error) {
		id, err := slot.ParseID(r.PathValue("id"))
		if err != nil {
			return AlonePlan{}, &Error{Text: err.Error(), Exit: ExitUsage, Next: "mailnode slot list"}
		}
		return s.backend.Alone.Alone(ctx, id)
	}))
	mux.Handle("POST /v1/alone", change(s, "serve without a quorum", requestTimeout, func(ctx context.Context, q AloneRequest, by string) (AloneOutcome, error) {
		q.By = by
		return s.backend.Alone.Serve(ctx, q)
	}))
}
