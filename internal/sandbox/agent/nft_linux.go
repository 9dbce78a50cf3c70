package agent

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// batch is a sequence of netlink messages.
type batch struct {
	buf  []byte
	acks int // answers to wait for
	seq  uint32
}

// message appends one message, whose body fill appends.
func (b *batch) message(kind, flags uint16, fill func()) {
	start := len(b.buf)
	b.seq++
	b.raw(make([]byte, 4)...)
	b.raw(binary.NativeEndian.AppendUint16(nil, kind)...)
	if kind != unix.NFNL_MSG_BATCH_BEGIN && kind != unix.NFNL_MSG_BATCH_END {
		flags |= unix.NLM_F_ACK
		b.acks++
	}
	b.raw(binary.NativeEndian.AppendUint16(nil, flags|unix.NLM_F_REQUEST)...)
	b.raw(binary.NativeEndian.AppendUint32(nil, b.seq)...)
	b.raw(0, 0, 0, 0)
	fill()
	binary.NativeEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
	b.raw(make([]byte, align(len(b.buf))-len(b.buf))...)
}

func (b *batch) raw(p ...byte) { b.buf = append(b.buf, p...) }

// attr appends an attribute.
func (b *batch) attr(kind int, value ...byte) { b.nest(kind, func() { b.raw(value...) }) }

// nest appends an attribute made of what fill appends.
func (b *batch) nest(kind int, fill func()) {
	start := len(b.buf)
	b.raw(0, 0, 0, 0)
	fill()
	binary.NativeEndian.PutUint16(b.buf[start:], uint16(len(b.buf)-start))
	binary.NativeEndian.PutUint16(b.buf[start+2:], uint16(kind))
	b.raw(make([]byte, align(len(b.buf))-len(b.buf))...)
}

func (b *batch) number(kind int, n uint32) { b.attr(kind, binary.BigEndian.AppendUint32(nil, n)...) }

func (b *batch) text(kind int, s string) { b.attr(kind, append([]byte(s), 0)...) }

const tableName = "penstock"

// nftables changes the machine's packet filter, all or nothing.
func nftables(build func(*batch)) error {
	return netlink(unix.NETLINK_NETFILTER, func(b *batch) {
		b.message(unix.NFNL_MSG_BATCH_BEGIN, 0, func() { b.raw(0, 0, 0, unix.NFNL_SUBSYS_NFTABLES) })
		build(b)
		b.message(unix.NFNL_MSG_BATCH_END, 0, func() { b.raw(0, 0, 0, unix.NFNL_SUBSYS_NFTABLES) })
	})
}

func (b *batch) nft(kind int, flags uint16, fill func()) {
	b.message(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|kind), flags, func() {
		b.raw(unix.NFPROTO_INET, 0, 0, 0)
		fill()
	})
}

func (b *batch) table() {
	b.nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func() { b.text(unix.NFTA_TABLE_NAME, tableName) })
}

func (b *batch) chain(name, kind string, hook, priority int) {
	b.nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func() {
		b.text(unix.NFTA_CHAIN_TABLE, tableName)
		b.text(unix.NFTA_CHAIN_NAME, name)
		b.nest(unix.NLA_F_NESTED|unix.NFTA_CHAIN_HOOK, func() {
			b.number(unix.NFTA_HOOK_HOOKNUM, uint32(hook))
			b.number(unix.NFTA_HOOK_PRIORITY, uint32(int32(priority)))
		})
		b.text(unix.NFTA_CHAIN_TYPE, kind)
	})
}

// expression is one part of a rule.
type expression func(b *batch)

func (b *batch) rule(chain string, parts ...expression) {
	b.nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func() {
		b.text(unix.NFTA_RULE_TABLE, tableName)
		b.text(unix.NFTA_RULE_CHAIN, chain)
		b.nest(unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, func() {
			for _, p := range parts {
				p(b)
			}
		})
	})
}

func (b *batch) expr(name string, fill func()) {
	b.nest(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, func() {
		b.text(unix.NFTA_EXPR_NAME, name)
		b.nest(unix.NLA_F_NESTED|unix.NFTA_EXPR_DATA, fill)
	})
}

// equal compares the first register with a value.
func (b *batch) equal(value ...byte) {
	b.expr("cmp", func() {
		b.number(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		b.number(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		b.nest(unix.NLA_F_NESTED|unix.NFTA_CMP_DATA, func() { b.attr(unix.NFTA_DATA_VALUE, value...) })
	})
}

// load reads a part of the packet into the first register.
func (b *batch) load(base, offset, size int) {
	b.expr("payload", func() {
		b.number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		b.number(unix.NFTA_PAYLOAD_BASE, uint32(base))
		b.number(unix.NFTA_PAYLOAD_OFFSET, uint32(offset))
		b.number(unix.NFTA_PAYLOAD_LEN, uint32(size))
	})
}

func (b *batch) meta(key int, value byte) {
	b.expr("meta", func() {
		b.number(unix.NFTA_META_DREG, unix.NFT_REG_1)
		b.number(unix.NFTA_META_KEY, uint32(key))
	})
	b.equal(value)
}

func (f *family) match() expression {
	return func(b *batch) { b.meta(unix.NFT_META_NFPROTO, f.nfproto) }
}

// to matches packets to an address.
func (f *family) to(ip netip.Addr) expression {
	return func(b *batch) {
		offset, size := 16, 4
		if f.af == unix.AF_INET6 {
			offset, size = 24, 16
		}
		b.load(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size)
		b.equal(ip.AsSlice()...)
	}
}

// toLoopback matches packets to 127.0.0.0/8.
func (f *family) toLoopback() expression {
	return func(b *batch) {
		b.load(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 1)
		b.equal(127)
	}
}

func tcp() expression {
	return func(b *batch) { b.meta(unix.NFT_META_L4PROTO, unix.IPPROTO_TCP) }
}

func udp() expression {
	return func(b *batch) { b.meta(unix.NFT_META_L4PROTO, unix.IPPROTO_UDP) }
}

// port matches packets to a port.
func port(n uint16) expression {
	return func(b *batch) {
		b.load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
		b.equal(binary.BigEndian.AppendUint16(nil, n)...)
	}
}

// redirectTo sends a connection to a port of the machine itself.
func redirectTo(n uint16) expression {
	return func(b *batch) {
		b.expr("immediate", func() {
			b.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
			b.nest(unix.NLA_F_NESTED|unix.NFTA_IMMEDIATE_DATA, func() {
				b.attr(unix.NFTA_DATA_VALUE, binary.BigEndian.AppendUint16(nil, n)...)
			})
		})
		b.expr("redir", func() { b.number(unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFT_REG_1) })
	}
}

func accept() expression {
	return func(b *batch) {
		b.expr("immediate", func() {
			b.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
			b.nest(unix.NLA_F_NESTED|unix.NFTA_IMMEDIATE_DATA, func() {
				b.nest(unix.NLA_F_NESTED|unix.NFTA_DATA_VERDICT, func() { b.number(unix.NFTA_VERDICT_CODE, 1) })
			})
		})
	}
}

// reject answers that the port is not reachable, or resets the connection.
func reject() expression {
	return func(b *batch) {
		b.expr("reject", func() {
			b.number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
			b.attr(unix.NFTA_REJECT_ICMP_CODE, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)
		})
	}
}
