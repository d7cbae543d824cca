package admin

import (
	"context"
	"net/http"
)

// PlaceRequest asks to give slots their first masters before as many nodes have started
// as `cluster init --nodes` said. By is filled in by the server.
type PlaceRequest struct {
	By string `json:"-"`
}

// Placed says how many slots got their first master.
type Placed struct {
	Slots int `json:"slots"`
}

// Place gives slots their first masters now; it is refused while a slot could not
// have all its copies.
func (c *Client) Place(ctx context.Context) (p Placed, err error) {
	return p, c.post(ctx, "/v1/place", PlaceRequest{}, &p)
}

func (s *Server) placeRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/place", change(s, "place slots", requestTimeout, func(ctx context.Context, q PlaceRequest, by string) (Placed, error) {
		q.By = by
		return s.backend.Cluster.Place(ctx, q)
	}))
}
