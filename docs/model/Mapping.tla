-------------------------------- MODULE Mapping --------------------------------
(* The sticky strategy: each node has a log of its own, and a mapping says which node has the session. How the mapping
   changes, and the one session with it, while nodes crash and messages are lost, repeated and late.

   A mapping is an epoch, the node `to` that the session maps to, its nodes `ns` and whom its maker knew to be involved.
   What a node has in its log: the mapping it adopted (map), where the trail sends the session (trail: {} when nothing is
   certain), whether it has settled, who has confirmed (conf), who may hold sessions (inv), the session's record (rec: its
   owner and version) and the mark of its departure (mark).

   Messages stay in `net` and may arrive any number of times or never; those that no receiver can act on any more are
   taken out. What one node tells of itself and what cannot become untrue ("I go by M", "I settled M") needs no message.
   An op is judged, waits in `op`, and is applied by the machine later, or lost in a crash: one at a time per node.

   Broken names the premises that are dropped: {} is the design, each mutant drops one. Keeps("x") marks the place. *)
EXTENDS Integers, FiniteSets

CONSTANTS Nodes, Founders,  \* all nodes; those of the mapping that stands at the beginning, closed
          First,            \* the node to which that one sends the session
          Epochs,           \* the last epoch
          Changes,          \* how many mappings operators may set in all; two of one epoch are a conflict
          NodeSets,         \* the sets of nodes that they choose from
          Targets,          \* the nodes to which they send the session
          Born,             \* whether the session exists at the beginning
          Versions,         \* the last version of the session
          Broken

VARIABLES map, trail, settled, conf, inv, rec, mark,   \* per node, in its log
          op,                                          \* per node, lost in a crash
          issued, hasSettled, hasClosed, net, born

vars == <<map, trail, settled, conf, inv, rec, mark, op, issued, hasSettled, hasClosed, net, born>>

Keeps(premise) == premise \notin Broken
NoMap == [ep |-> 0, to |-> "nobody", ns |-> {}, src |-> {}]
NoRec == [own |-> "nobody", v |-> 0]
NoOp == [k |-> "none"]
Founding == [ep |-> 1, to |-> First, ns |-> Founders, src |-> Founders]

Has(n) == rec[n] # NoRec
Holds(n) == rec[n].own = n   \* its machine takes ops on the session

NeverTwo == Cardinality({n \in Nodes : Holds(n)}) <= 1
NotForgotten == born => \E n \in Nodes : Has(n)
NewestKept == \A k \in Nodes : mark[k] > 0 => \E n \in Nodes : rec[n].v >= mark[k]

Init ==
  /\ map = [n \in Nodes |-> IF n \in Founders THEN Founding ELSE NoMap]
  /\ trail = [n \in Nodes |-> IF n \in Founders THEN {First} ELSE {}]
  /\ settled = [n \in Nodes |-> n \in Founders]
  /\ conf = [n \in Nodes |-> IF n \in Founders THEN Founders \ {n} ELSE {}]
  /\ inv = [n \in Nodes |-> IF n \in Founders THEN Founders ELSE {}]
  /\ rec = [n \in Nodes |-> IF Born /\ n = First THEN [own |-> First, v |-> 1] ELSE NoRec]
  /\ mark = [n \in Nodes |-> 0]
  /\ op = [n \in Nodes |-> NoOp]
  /\ issued = {Founding}
  /\ hasSettled = {} /\ hasClosed = {} /\ net = {} /\ born = Born

---------------------------------------------------------------------------------
(* The mapping at one node. *)

(* Messages to which nobody can answer any more in a way that changes anything. *)
Passed(r, k, v) == r.v >= v \/ k >= v
Useful(messages, maps, recs, marks, confs) ==
  {x \in messages :
     /\ maps[x.at].ep <= x.m.ep \/ ~Keeps("digest")
     /\ x.k = "done" => x.by \notin confs[x.at] \/ maps[x.at] # x.m
     /\ x.k \in {"have", "never"} => recs[x.at] = [own |-> x.by, v |-> x.v]
     /\ x.k \in {"row", "doubt"} => (\/ recs[x.by] = [own |-> x.at, v |-> x.v]
                                      \/ (x.k = "row" /\ ~Passed(recs[x.at], marks[x.at], x.v)))}

Adopt(n, M) ==
  /\ M.ep > map[n].ep
  /\ map' = [map EXCEPT ![n] = M]
  /\ trail' = [trail EXCEPT ![n] = IF @ = {} THEN {} ELSE @ \cup {M.to}]
  /\ settled' = [settled EXCEPT ![n] = FALSE]
  /\ conf' = [conf EXCEPT ![n] = {}]
  /\ inv' = [inv EXCEPT ![n] = M.src \cup M.ns \cup (IF Keeps("carry") THEN @ ELSE {})]
  /\ net' = Useful(net, map', rec, mark, conf')
  /\ UNCHANGED <<rec, mark, op, hasSettled, hasClosed, born>>

Follow(n) == \E M \in issued : Adopt(n, M) /\ UNCHANGED issued

Change(n) ==   \* an operator sets the next mapping at n
  /\ map[n].ep \in 1..(Epochs - 1)
  /\ Cardinality(issued) <= Changes
  /\ \E ns \in NodeSets : \E to \in ns \cap Targets :
       LET M == [ep |-> map[n].ep + 1, to |-> to, ns |-> ns, src |-> inv[n] \cup map[n].ns \cup ns] IN
       /\ Adopt(n, M)
       /\ issued' = issued \cup {M}

WaitsFor(n) == inv[n] \ (conf[n] \cup {n})

Settle(n) ==
  /\ map[n].ep > 0 /\ ~settled[n]
  /\ WaitsFor(n) = {} \/ ~Keeps("wait")
  /\ settled' = [settled EXCEPT ![n] = TRUE]
  /\ trail' = [trail EXCEPT ![n] = {map[n].to}]
  /\ hasSettled' = hasSettled \cup {<<n, map[n]>>}
  /\ UNCHANGED <<map, conf, inv, rec, mark, op, issued, hasClosed, net, born>>

Close(n) ==
  /\ settled[n] /\ inv[n] # map[n].ns
  /\ \/ \A k \in inv[n] \ {n} : <<k, map[n]>> \in hasSettled
     \/ n \in map[n].ns /\ \E k \in Nodes \ {n} : <<k, map[n]>> \in hasClosed
     \/ ~Keeps("close")
  /\ inv' = [inv EXCEPT ![n] = map[n].ns]
  /\ hasClosed' = hasClosed \cup {<<n, map[n]>>}
  /\ UNCHANGED <<map, trail, settled, conf, rec, mark, op, issued, hasSettled, net, born>>

---------------------------------------------------------------------------------
(* What the node decides to do with the session, from its own log and from messages. *)

Decide(n, what) == op[n] = NoOp /\ op' = [op EXCEPT ![n] = what]
Quiet == UNCHANGED <<map, trail, settled, conf, inv, rec, mark, issued, hasSettled, hasClosed, born>>
Send(x) == x \notin net /\ net' = Useful(net \cup {x}, map, rec, mark, conf) /\ Quiet

Create(n) ==
  /\ map[n].to = n /\ ~Has(n)
  /\ trail[n] = {n} \/ ~Keeps("trail")
  /\ Decide(n, [k |-> "create", ep |-> map[n].ep])
  /\ Quiet /\ UNCHANGED net

Give(n) ==   \* freeze and transfer
  /\ Holds(n) /\ map[n].to # n
  /\ Decide(n, [k |-> "give", v |-> rec[n].v, to |-> map[n].to])
  /\ Quiet /\ UNCHANGED net

(* The answer of giver g to a pull of t by the mapping of both. *)
IsFor(g, t) == rec[g].own = t
Left(g, t) == Has(g) /\ (map[g].to = t \/ IsFor(g, t))
Answer(g, t) ==
  /\ map[g].ep > 0 /\ g # t /\ (map[t] = map[g] \/ ~Keeps("digest")) /\ UNCHANGED op
  /\ \/ /\ IsFor(g, t) /\ map[g].to = t
        /\ Send([k |-> "row", at |-> t, by |-> g, m |-> map[g], v |-> rec[g].v, inv |-> {}])
     \/ /\ IsFor(g, t) /\ map[g].to # t
        /\ Send([k |-> "doubt", at |-> t, by |-> g, m |-> map[g], v |-> rec[g].v, inv |-> {}])
     \/ /\ (~Left(g, t) \/ ~Keeps("left")) /\ g \in WaitsFor(t)
        /\ Send([k |-> "done", at |-> t, by |-> g, m |-> map[g], v |-> 0, inv |-> inv[g]])

Had(n, v) == rec[n].v >= v \/ mark[n] >= v
Fits(x) == map[x.at] = x.m \/ (~Keeps("digest") /\ map[x.at].ep > 0)
Reply(x, k) == Send([k |-> k, at |-> x.by, by |-> x.at, m |-> map[x.at], v |-> x.v, inv |-> {}])

Take(x) ==   \* at the taker: it admits, says that it has, or that it never had and never will
  /\ x \in net /\ Fits(x)
  /\ LET t == x.at IN
     \/ /\ x.k \in {"row", "doubt"} /\ (Had(t, x.v) \/ (~Keeps("durable") /\ op[t].k = "admit"))
        /\ Reply(x, "have") /\ UNCHANGED op
     \/ /\ x.k = "row" /\ ~Had(t, x.v) /\ map[t].to = t
        /\ Decide(t, [k |-> "admit", ep |-> map[t].ep, v |-> x.v]) /\ Quiet /\ UNCHANGED net
     \/ /\ ~Had(t, x.v)
        /\ (x.k = "doubt" /\ map[t].to # t) \/ (x.k = "row" /\ ~Keeps("decline"))
        /\ Reply(x, "never") /\ UNCHANGED op
     \/ /\ x.k = "done" /\ x.by \in WaitsFor(t)
        /\ conf' = [conf EXCEPT ![t] = @ \cup {x.by}]
        /\ inv' = [inv EXCEPT ![t] = IF Keeps("others") THEN @ \cup x.inv ELSE @]
        /\ net' = Useful(net, map, rec, mark, conf')
        /\ UNCHANGED <<map, trail, settled, rec, mark, op, issued, hasSettled, hasClosed, born>>

Hear(x) ==   \* at the giver
  /\ x \in net /\ Fits(x)
  /\ LET g == x.at IN
     /\ rec[g].v = x.v /\ rec[g].own = x.by
     /\ \/ x.k = "have" /\ Decide(g, [k |-> "forget", ep |-> map[g].ep, v |-> x.v, to |-> x.by])
        \/ x.k = "never" /\ (map[g].to # x.by \/ ~Keeps("decline")) /\ Decide(g, [k |-> "reclaim", ep |-> map[g].ep, v |-> x.v])
  /\ Quiet /\ UNCHANGED net

---------------------------------------------------------------------------------
(* The machine applies the op by its own state, which may have changed since the op was judged. *)

Machine(n) ==
  LET o == op[n]
      r == rec[n]
      put(record, m) == rec' = [rec EXCEPT ![n] = record] /\ mark' = [mark EXCEPT ![n] = m]
      none == UNCHANGED <<rec, mark>>
      young == o.v < Versions
  IN
  /\ o # NoOp
  /\ op' = [op EXCEPT ![n] = NoOp]
  /\ CASE o.k = "create" ->
            IF r = NoRec /\ mark[n] = 0 /\ (o.ep = map[n].ep \/ ~Keeps("create"))
            THEN put([own |-> n, v |-> 1], mark[n]) ELSE none
       [] o.k = "give" ->
            IF r.own = n /\ r.v = o.v /\ o.to \in map[n].ns THEN young /\ put([own |-> o.to, v |-> o.v + 1], mark[n]) ELSE none
       [] o.k = "admit" ->
            IF (o.ep = map[n].ep \/ ~Keeps("admit")) /\ r.own # n /\ ~Had(n, o.v)
            THEN put([own |-> n, v |-> o.v], 0) ELSE none
       [] o.k = "forget" ->
            IF o.ep = map[n].ep /\ r.v = o.v /\ r.own = o.to THEN put(NoRec, o.v) ELSE none
       [] o.k = "reclaim" ->
            IF (o.ep = map[n].ep \/ ~Keeps("reclaim")) /\ r.v = o.v /\ r.own # n THEN young /\ put([own |-> n, v |-> o.v + 1], mark[n]) ELSE none
  /\ born' = (born \/ (o.k = "create" /\ rec' # rec))
  /\ net' = Useful(net, map, rec', mark', conf)
  /\ UNCHANGED <<map, trail, settled, conf, inv, issued, hasSettled, hasClosed>>

Crash(n) ==   \* what was not in the log is gone
  /\ op[n] # NoOp
  /\ op' = [op EXCEPT ![n] = NoOp]
  /\ Quiet /\ UNCHANGED net

Next == \/ \E n \in Nodes : Follow(n) \/ Change(n) \/ Settle(n) \/ Close(n) \/ Create(n) \/ Give(n) \/ Machine(n) \/ Crash(n)
        \/ \E g, t \in Nodes : Answer(g, t)
        \/ \E x \in net : Take(x) \/ Hear(x)
Spec == Init /\ [][Next]_vars
================================================================================
