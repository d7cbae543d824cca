// Package peer is how nodes know and reach each other: the cluster's own
// certificate authority, the folder that keeps a node's identity, join tokens,
// and one port on which ALPN tells apart Raft, gRPC, passed-on client
// connections and joining nodes.
//
// What a connection proves, before anyone else sees it:
//
//  1. TLS 1.3 with certificates of this cluster's CA on both sides. The CA is
//     made by Init and trusts nothing else; dates are not looked at (law 11).
//  2. The name in the certificate, which is the name that was dialled.
//  3. HELLO: the same cluster ID and the same generation on both sides. A node
//     that `cluster recover` left behind is refused here, so that a lost
//     majority that comes back cannot outvote the survivors.
//
// Joining is the exception: there only the server shows a certificate, which
// the joiner pins by the fingerprint in its token.
package peer
