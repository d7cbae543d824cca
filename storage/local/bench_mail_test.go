package local

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
)

// benchMail makes messages from a seed, with the sizes of mailbench's "mix":
// log-normal, median 12 KB, at most 5 MiB, mean about 75 KB. Small ones are
// text, larger ones carry an attachment in base64, as real ones do.
func benchMail(seed uint64, n int) (mails [][]byte, bytes int64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	pool := base64Lines(rng, 8<<20)
	for i := range n {
		size := int(min(max(12e3*math.Exp(1.95*rng.NormFloat64()), 1000), 5<<20))
		m := benchMessage(rng, pool, i, size)
		mails = append(mails, m)
		bytes += int64(len(m))
	}
	return mails, bytes
}

func benchMessage(rng *rand.Rand, pool []byte, i, size int) []byte {
	m := make([]byte, 0, size+200)
	for hop := range 3 {
		m = fmt.Appendf(m, "Received: from relay%d.sender%d.test (relay%d.sender%d.test [192.0.2.%d])\r\n\tby mx%d.example.test with ESMTPS id %016x;\r\n\tMon, 5 Jan 2026 08:00:00 +0000\r\n",
			hop, i%40, hop, i%40, rng.IntN(255), hop, rng.Uint64())
	}
	m = fmt.Appendf(m, "From: \"Sender %d\" <s%d@sender%d.test>\r\nTo: <u%d@example.test>\r\nSubject: number %d of many\r\nDate: Mon, 5 Jan 2026 08:00:00 +0000\r\nMessage-ID: <%d.%016x@sender.test>\r\nMIME-Version: 1.0\r\n",
		i%400, i%400, i%40, i%50, i, i, rng.Uint64())
	if size < 24<<10 {
		m = append(m, "Content-Type: text/plain; charset=utf-8\r\n\r\n"...)
		for len(m) < size {
			m = fmt.Appendf(m, "line %d of a text that a person could have written, %06d\r\n", len(m), rng.IntN(1e6))
		}
		return m
	}
	boundary := fmt.Sprintf("=_%016x", rng.Uint64())
	m = fmt.Appendf(m, "Content-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n--%s\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", boundary, boundary)
	for end := len(m) + 3000; len(m) < end; {
		m = fmt.Appendf(m, "See what is attached, %06d.\r\n", rng.IntN(1e6))
	}
	m = fmt.Appendf(m, "\r\n--%s\r\nContent-Type: application/pdf; name=\"%d.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n", boundary, i)
	at := rng.IntN(len(pool)/78/4) * 78
	m = append(m, pool[at:min(at+max(size-len(m), 78), len(pool))]...)
	return fmt.Appendf(m, "\r\n--%s--\r\n", boundary)
}

// base64Lines returns lines of 76 columns that compress as little as a picture.
func base64Lines(rng *rand.Rand, size int) []byte {
	var out bytes.Buffer
	raw := make([]byte, 57)
	for out.Len() < size {
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		out.WriteString(base64.StdEncoding.EncodeToString(raw))
		out.WriteString("\r\n")
	}
	return out.Bytes()
}
