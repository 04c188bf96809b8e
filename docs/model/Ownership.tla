------------------------------- MODULE Ownership -------------------------------
(* Who may act for one session: leases, the cluster clock, incarnations, freeze, transfer, resume, failover.

   Raft is taken as given: one log, what is committed stays, a leader appends only when it has applied all of it. What
   is asked here is whether two PROCESSES can ever answer `owns()` with yes at the same instant, whatever the network,
   the clocks and crashes do.

   An entry stands here from the moment of its stamp on, if it survives at all: when it is committed shows only in when
   the processes apply it, and that may be any time later. Likewise an op counts from its append: a proposal that waits,
   or is lost, changes nothing but what its own process may do (see Give).

   The state holds no absolute time, so neither time nor the number of renewals, entries and leader changes is bounded,
   only the number of session transitions (Versions):

     left[p]    what is left of p's lease by its own clock        age[p]   how long ago p sent the open renewal
     m.until    what is left of leases by cluster time            est[p]   p's estimate, from the machine's clock on

   In one tick each clock moves by 1 or by 2, its own choice each time: d = 1/3 around true time. A lease of ttl is
   counted as ttl * (1 - d) = Local by its holder, and as ttl * (1 + d) = Machine by the machine: Machine = 2 * Local.

   Broken names the premises that are dropped: {} is the design, each mutant drops one. Keeps("x") marks the place. *)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS Nodes,      \* node ids; the first process of each has joined
          Restarts,   \* nodes that may get a second process, whether the first is dead or not
          Local,      \* the holder's lease, in units of its clock
          Machine,    \* the machine's lease, in units of cluster time
          Window,     \* entries that a process may be behind and still apply one by one; beyond it, by a snapshot
          Versions,   \* the last version of the session
          Guess,      \* how far a caller may state a version beyond what its process has seen
          Eager,      \* renewals are sent at the very moment of their append: the worst case for safety, fewer states
          Broken

VARIABLES m,        \* the machine after the last entry: session s; per node inc, until, fence
          log,      \* the entries that some process has still to apply, oldest first
          leader,
          up,       \* per process: "no", "up", "gone" (it said goodbye), "dead"
          lag,      \* per process: how many entries it has not applied; Window + 1: cut off
          view,     \* per process: the session as of the last entry it applied
          held,     \* per process: epoch under which the session is on its list, 0 when it is not
          giving,   \* per process: own give-ups whose fate it does not know
          left, age, est,
          anch      \* per process: it has an anchor of its own lifetime

vars == <<m, log, leader, up, lag, view, held, giving, left, age, est, anch>>

Keeps(premise) == premise \notin Broken
Procs == (Nodes \X {1}) \cup (Restarts \X {2})
Cut == Window + 1
Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Up == {p \in Procs : up[p] = "up"}
First == CHOOSE n \in Nodes : TRUE
New == [owner |-> First, inc |-> 1, st |-> "live", v |-> 1, ep |-> 1, to |-> First]   \* bound, no lease runs

Owns(p) == up[p] = "up" /\ held[p] > 0 /\ left[p] > 0
NeverTwo == Cardinality({p \in Procs : Owns(p)}) <= 1
(* What a receiver of fencing tokens relies on: whoever is bound now has the highest epoch that anybody holds. *)
EpochLeads == \A p \in Procs : held[p] <= m.s.ep /\ (held[p] = m.s.ep => p[1] = m.s.owner)

Init ==
  /\ m = [s |-> New, inc |-> [n \in Nodes |-> 1], until |-> [n \in Nodes |-> 0], fence |-> [n \in Nodes |-> 0]]
  /\ log = <<>>
  /\ leader \in Nodes \X {1}
  /\ up = [p \in Procs |-> IF p[2] = 1 THEN "up" ELSE "no"]
  /\ lag = [p \in Procs |-> 0]
  /\ view = [p \in Procs |-> New]
  /\ held = [p \in Procs |-> IF p = <<First, 1>> THEN 1 ELSE 0]
  /\ giving = [p \in Procs |-> 0]
  /\ left = [p \in Procs |-> 0]
  /\ age = [p \in Procs |-> -1]
  /\ est = [p \in Procs |-> 0]
  /\ anch = [p \in Procs |-> p[2] = 1]

---------------------------------------------------------------------------------
(* Time. Beyond the length of a lease nothing changes any more, so nothing is counted beyond it. *)

Counts(p) == anch[p] /\ (lag[p] = 0 \/ p = leader \/ ~Keeps("anchor"))
Runs(p) == up[p] = "up" /\ (left[p] > 0 \/ age[p] >= 0 \/ (Counts(p) /\ est[p] < Machine))

Tick ==
  /\ \E gain \in [{p \in Procs : Runs(p)} -> {1, 2}] :
       LET g(p) == IF p \in DOMAIN gain THEN gain[p] ELSE 0 IN
       /\ left' = [p \in Procs |-> Max(0, left[p] - g(p))]
       /\ age' = [p \in Procs |-> IF age[p] < 0 THEN -1
                                  ELSE IF age[p] + g(p) < Local THEN age[p] + g(p)
                                  ELSE IF Keeps("send") THEN -1 ELSE Local]
       /\ est' = [p \in Procs |-> IF Counts(p) THEN Min(Machine, est[p] + g(p)) ELSE est[p]]
  /\ UNCHANGED <<m, log, leader, up, lag, view, held, giving, anch>>

---------------------------------------------------------------------------------
(* The leader appends, stamped with its estimate of cluster time. All conditions are the machine's, at the entry's own
   time; the processes learn of it when they apply it. *)

Stamp == Max(0, est[leader])
Ready == up[leader] = "up" /\ lag[leader] = 0
Less(t) == Max(0, t - Stamp)
Until == [n \in Nodes |-> Less(m.until[n])]
Fence == [n \in Nodes |-> Less(m.fence[n])]
Step(s) == [s EXCEPT !.v = @ + 1]
Needed(lags) == LET open == {lags[p] : p \in Procs} \ {Cut} IN CHOOSE k \in open \cup {0} : \A j \in open : j <= k
Last(seq, k) == SubSeq(seq, Len(seq) - k + 1, Len(seq))

Append1(k, p, s, until, fence, inc) ==
  /\ m' = [s |-> s, until |-> until, fence |-> fence, inc |-> inc]
  /\ lag' = [q \in Procs |-> IF up[q] = "up" THEN Min(Cut, lag[q] + 1) ELSE 0]
  /\ log' = Last(Append(log, [k |-> k, p |-> p, s |-> s]), Needed(lag'))
  /\ est' = [q \in Procs |-> IF q = leader \/ ~Keeps("anchor") THEN Max(-Machine, est[q] - Stamp) ELSE 0]
  /\ age' = IF Eager /\ k \in {"renew", "join"} THEN [age EXCEPT ![p] = 0] ELSE age
  /\ UNCHANGED <<leader, up, view, left, anch>>

IsCurrent(p) == IF Keeps("incarnation") THEN m.inc[p[1]] = p[2] ELSE p[2] <= m.inc[p[1]]
Lives(p) == IsCurrent(p) /\ m.until[p[1]] > Stamp
Knows(p) == m.s.v - view[p].v <= Guess   \* the op states the version that stands
MayAct(p) == m.s.owner = p[1] /\ (m.s.inc = p[2] \/ Stamp >= m.fence[p[1]] \/ ~Keeps("fence"))

(* An answer belongs to the renewal that was sent, and to no later one. *)
Unanswered(p) == \E i \in 1..Len(log) : i > Len(log) - lag[p] /\ log[i].p = p /\ log[i].k \in {"renew", "join"}

SendRenewal(p) ==
  /\ ~Eager /\ up[p] = "up" /\ age[p] = -1 /\ lag[p] # Cut /\ (~Unanswered(p) \/ ~Keeps("match"))
  /\ age' = [age EXCEPT ![p] = 0]
  /\ UNCHANGED <<m, log, leader, up, lag, view, held, giving, left, est, anch>>

Lease(p) ==   \* a renewal, or the join of a newer process
  /\ Ready /\ anch[leader] /\ up[p] = "up" /\ (Eager \/ age[p] >= 0) /\ lag[p] # Cut /\ ~Unanswered(p)
  /\ LET n == p[1] IN
     \/ /\ IsCurrent(p)
        /\ Append1("renew", p, m.s, [Until EXCEPT ![n] = Machine], Fence, m.inc)
     \/ /\ p[2] > m.inc[n]
        /\ Append1("join", p, m.s, [Until EXCEPT ![n] = Machine], [Fence EXCEPT ![n] = Max(@, Until[n])], [m.inc EXCEPT ![n] = p[2]])
  /\ UNCHANGED <<held, giving>>

Leave(p) ==   \* it vouches that it acts for nothing any more
  /\ Ready /\ anch[leader] /\ m.inc[p[1]] = p[2] /\ m.until[p[1]] > 0
  /\ up[p] = "gone" \/ (up[p] = "up" /\ ~Keeps("leave"))
  /\ Append1("leave", p, m.s, [Until EXCEPT ![p[1]] = 0], Fence, m.inc)
  /\ UNCHANGED <<held, giving>>

Bind(p) ==   \* reattach; resume where it was transferred here
  /\ Ready /\ anch[leader] /\ m.s.v < Versions /\ up[p] = "up" /\ Knows(p) /\ Lives(p)
  /\ MayAct(p) /\ m.s.st # "frozen" /\ ~(m.s.st = "live" /\ m.s.inc = p[2])
  /\ Append1("bind", p, Step([m.s EXCEPT !.st = "live", !.inc = p[2]]), Until, Fence, m.inc)
  /\ UNCHANGED <<held, giving>>

TakeOver(p) ==   \* failover
  /\ Ready /\ anch[leader] /\ m.s.v < Versions /\ up[p] = "up" /\ Knows(p) /\ Lives(p)
  /\ m.s.owner # p[1]
  /\ Stamp >= m.until[m.s.owner] \/ ~Keeps("lapse")
  /\ Stamp >= m.fence[m.s.owner] \/ ~Keeps("former")   \* no process of the owner, the newest or an older one, may act
  /\ Append1("bind", p, Step([m.s EXCEPT !.st = "live", !.owner = p[1], !.inc = p[2], !.ep = @ + 1, !.to = First]), Until, Fence, m.inc)
  /\ UNCHANGED <<held, giving>>

(* Freeze and transfer, by the owner. The process stops acting when it proposes one, which is here at the latest moment
   that counts, the append; it does not act again before it knows what became of it.
   `stray`: a copy of an op that its process knows to be over. The version it states is past. *)
Give(p, stray) ==
  /\ Ready /\ anch[leader] /\ m.s.v < Versions /\ up[p] = "up" /\ Lives(p) /\ MayAct(p)
  /\ Knows(p) \/ stray
  /\ \/ /\ m.s.st \in {"live", "rec"}
        /\ \E t \in Nodes \ {p[1]} :
             Append1("freeze", p, Step([m.s EXCEPT !.st = "frozen", !.inc = p[2], !.to = t]), Until, Fence, m.inc)
     \/ /\ m.s.st = "frozen"
        /\ Append1("transfer", p, Step([m.s EXCEPT !.st = "moved", !.owner = m.s.to, !.inc = m.inc[m.s.to], !.ep = @ + 1, !.to = First]), Until, Fence, m.inc)
  /\ giving' = IF stray THEN giving ELSE [giving EXCEPT ![p] = @ + 1]
  /\ held' = IF stray \/ ~Keeps("giveup") THEN held ELSE [held EXCEPT ![p] = 0]

Thaw ==   \* the sweep, after a timeout that may be any
  /\ Ready /\ anch[leader] /\ m.s.v < Versions /\ m.s.st \in {"frozen", "moved"}
  /\ Append1("thaw", leader, Step([m.s EXCEPT !.st = "rec", !.to = First]), Until, Fence, m.inc)
  /\ UNCHANGED <<held, giving>>

(* First entry of a leader without an anchor: cluster time goes on by any jump; leases that had not lapsed start anew. *)
ResumeClock ==
  /\ Ready /\ ~anch[leader]
  /\ LET again(t) == IF t > 0 /\ Keeps("rearm") THEN Machine ELSE 0 IN
     Append1("clock", leader, m.s, [n \in Nodes |-> again(m.until[n])], [n \in Nodes |-> again(m.fence[n])], m.inc)
  /\ UNCHANGED <<held, giving>>

(* Another leader: it has applied all that survives. *)
BecomeLeader(p) ==
  /\ up[p] = "up" /\ p # leader /\ lag[p] = 0
  /\ leader' = p
  /\ UNCHANGED <<m, log, up, lag, view, held, giving, left, age, est, anch>>

---------------------------------------------------------------------------------
(* A process applies the next entry: it takes its answers from there, and only from there. *)

IsMine(s, p) == s.owner = p[1] /\ s.inc = p[2] /\ s.st = "live"

Apply(p) ==
  /\ up[p] = "up" /\ lag[p] \in 1..Window
  /\ LET e == log[Len(log) - lag[p] + 1]
         own == e.p = p
         leased == own /\ e.k \in {"renew", "join"} /\ age[p] >= 0
         outdone == e.k = "join" /\ e.p[1] = p[1] /\ e.p[2] > p[2] /\ Keeps("incarnation")
     IN
     /\ lag' = [lag EXCEPT ![p] = @ - 1]
     /\ log' = Last(log, Needed(lag'))
     /\ view' = [view EXCEPT ![p] = e.s]
     /\ giving' = [giving EXCEPT ![p] = IF own /\ e.k \in {"freeze", "transfer"} THEN Max(0, @ - 1) ELSE @]
     /\ held' = [held EXCEPT ![p] =
          IF outdone THEN 0
          ELSE IF own /\ e.k = "bind" /\ (giving[p] = 0 \/ ~Keeps("grant")) THEN e.s.ep
          ELSE IF (IsMine(e.s, p) /\ e.s.ep = @) \/ ~Keeps("strike") THEN @ ELSE 0]
     /\ left' = [left EXCEPT ![p] = IF leased THEN Max(@, Local - (IF Keeps("send") THEN age[p] ELSE 0)) ELSE @]
     /\ age' = [age EXCEPT ![p] = IF leased THEN -1 ELSE @]
     /\ anch' = [anch EXCEPT ![p] = @ \/ (own /\ e.k = "join") \/ (p = leader /\ e.k = "clock")]
     /\ est' = [est EXCEPT ![p] = IF anch[p] /\ (p = leader \/ ~Keeps("anchor")) THEN @ ELSE 0]
     /\ up' = [up EXCEPT ![p] = IF outdone THEN "dead" ELSE @]
  /\ UNCHANGED <<m, leader>>

(* A snapshot in place of the entries: what is not shown to be current is struck off, and no lease is taken from it. *)
Install(p) ==
  /\ up[p] = "up" /\ lag[p] > 0
  /\ LET gone == m.inc[p[1]] > p[2] /\ Keeps("incarnation") IN
     /\ lag' = [lag EXCEPT ![p] = 0]
     /\ log' = Last(log, Needed(lag'))
     /\ view' = [view EXCEPT ![p] = m.s]
     /\ held' = [held EXCEPT ![p] = IF ~gone /\ IsMine(m.s, p) /\ m.s.ep = @ THEN @ ELSE 0]
     /\ giving' = [giving EXCEPT ![p] = 0]
     /\ up' = [up EXCEPT ![p] = IF gone THEN "dead" ELSE @]
     /\ age' = [age EXCEPT ![p] = -1]
     /\ est' = [est EXCEPT ![p] = IF Keeps("anchor") THEN 0 ELSE @]
  /\ UNCHANGED <<m, leader, left, anch>>

(* The embedder confirms a binding whose caller had given up waiting, or a give-up was withdrawn and it binds again. *)
Confirm(p) ==
  /\ up[p] = "up" /\ held[p] = 0 /\ IsMine(view[p], p) /\ giving[p] = 0
  /\ held' = [held EXCEPT ![p] = view[p].ep]
  /\ UNCHANGED <<m, log, leader, up, lag, view, giving, left, age, est, anch>>

(* Only in a mutant: the process is told of its renewal before a majority has the entry, and then the entry is lost. *)
Early(p) ==
  /\ ~Keeps("commit") /\ age[p] >= 0 /\ m.inc[p[1]] = p[2]
  /\ left' = [left EXCEPT ![p] = Max(@, Local - age[p])]
  /\ age' = [age EXCEPT ![p] = -1]
  /\ UNCHANGED <<m, log, leader, up, lag, view, held, giving, est, anch>>

---------------------------------------------------------------------------------
(* Processes end, in order ("gone": its goodbye is on its way) or not; newer ones start, from the log on disk. *)

Ends(p, how) ==
  /\ up[p] = "up"
  /\ up' = [up EXCEPT ![p] = how]
  /\ lag' = [lag EXCEPT ![p] = 0]
  /\ log' = Last(log, Needed(lag'))
  /\ view' = [view EXCEPT ![p] = New]
  /\ held' = [held EXCEPT ![p] = 0]
  /\ giving' = [giving EXCEPT ![p] = 0]
  /\ left' = [left EXCEPT ![p] = 0]
  /\ age' = [age EXCEPT ![p] = -1]
  /\ est' = [est EXCEPT ![p] = 0]
  /\ anch' = [anch EXCEPT ![p] = FALSE]
  /\ UNCHANGED <<m, leader>>

Start(p) ==
  /\ up[p] = "no"
  /\ up' = [up EXCEPT ![p] = "up"]
  /\ view' = [view EXCEPT ![p] = m.s]
  /\ UNCHANGED <<m, log, leader, lag, held, giving, left, age, est, anch>>

Next == \/ Tick \/ Thaw \/ ResumeClock
        \/ \E p \in Procs : \/ SendRenewal(p) \/ Lease(p) \/ Leave(p) \/ Bind(p) \/ TakeOver(p)
                            \/ Give(p, FALSE) \/ (~Keeps("version") /\ Give(p, TRUE))
                            \/ BecomeLeader(p) \/ Apply(p) \/ Install(p) \/ Confirm(p) \/ Early(p)
                            \/ Ends(p, "dead") \/ Ends(p, "gone") \/ Start(p)
Spec == Init /\ [][Next]_vars
================================================================================
