"""The sentences of the embedded world as patterns (see ``grammar``), by their place in a review.

Marks in front of a colon restrict a pattern: ``m`` movies, ``b`` books, ``+`` liked, ``-`` disliked; ``#`` makes it
likelier in concrete reviews and ``~`` in vague ones; ``>`` keeps it for later, when the hero is known. A
sentence ends with its own mark, or with a full stop.
"""

OPENING = """
-: I want/VBD (to *like/VB <thing>) , but conj=((the <aspect>) be! <fit>)
I come/VBD to(<thing>) with({high|low|few} hopes) and conj=(leave/VBD acomp=({very|really|quite|so} <glad>))
I have/VBD never hear/VBN of(<maker>) advcl=(before/IN I find/VBD <thing> {in(a small shop)|in(<elsewhere>)})
(my <giver>) tell/VBD dative=me ccomp=(that/IN <thing> be/VBD <adj>)
(my <giver>) give/VBD dative=me <thing> for(Christmas) , and conj=(I 'be! <glad>)
(my <giver> and conj=I) {pick/VBD|choose/VBD|try/VBD} <thing> <when>
after(@DATE(<few> years) of(silence)) , <maker> have! finally return/VBN
after(all/PDT the praise) , I expect/VBD dobj=(more/JJR from(<thing>))
after({@DATE(a bad week)|(a long day)|(a hard winter)}) , I need/VBD {(a good laugh/NN)|something|(a simple story)}
it take/VBD dative=me <span> xcomp=(to *get/VB through(<thing>))
it be! hard xcomp=(to *say/VB ccomp=(dobj=what/WP I {expect/VBD|want/VBD}))
it be! rare xcomp=(to *find/VB (a story relcl=(that/WDT <grip!> (so many people/NNS))))
this be! (a (<adj> and conj=<mood>) <work_noun>)
forget/VB (everything relcl=(you know! about(<works>)))
who need! (another {<genre>|sequel|love story|war story}) ?
have! nsubj=you ever <take/VBN> (a <better> <work_noun>) ?
<guest> {call/VBD|find/VBD} ccomp=(nsubj=<thing> *<adj>) , and conj=(I {agree!|can see/VB advmod=why})
#: <title> be! (<makers> <best> <work_noun>)
#: <title> be! (<makers> {latest|final|strangest} <work_noun>) , and conj=(it <shine!>)
#: in(<work_year>) , <maker> {move/VBD|travel/VBD|go/VBD} to(<elsewhere>) advcl=(to *make/VB <title>)
#: <maker> {make/VBD|finish/VBD|begin/VBD} <title> in(<elsewhere>) in(<work_year>)
#: <title> {come/VBD out|appear/VBD} in(<work_year>) , and conj=(I still <love!> it)
#: like(<other>) , <title> begin! {in(<place>)|with(a <event> in(<place>))}
#: before(<title>) , <maker> {live/VBD|work/VBD|study/VBD} in(<elsewhere>) for(@DATE(<few> years))
#: <studio> {release/VBD|announce/VBD|present/VBD} <title> in(@DATE(*<month> <plain_work_year>))
#: in(<place>) , (people/NNS) still {talk!|argue!} about(<title>)
this be! (*@CARDINAL(one) of(the <best> <works> relcl=(I 'have! ever <take/VBN>)))
this be! (the kind of(<work_noun>) relcl=(dobj=that/WDT I {usually|always|rarely/RB} {avoid!|enjoy!|buy!}))
this be! not (the <work_noun> relcl=(I expect/VBD))
~: what/WDT a <gem> !
~: I be! still not sure ccomp=(dobj=what/WP I think! of(<thing>))
where/WRB do! I *begin/VB ?
(few <works>) have! <grip/VBN> me like(this one/NN)
(not every <work_noun>) need! (a {message|sequel|hero|twist})
(people/NNS) keep! xcomp=(tell/VBG dative=me ccomp=(that/IN <thing> be! (a <gem>)))
(some <works>) <grip!> you from(the start)
advcl=(if you {like/VBD|enjoy/VBD} <other>) , you will {know/VB|recognize/VB|understand/VB} (this one/NN)
advcl=(when I be/VBD {young|little}) , (my <relative>) love/VBD {<other>|(stories like(this))}
I {buy/VBD|pick/VBD|find/VBD} <thing> <when> advcl=(because/IN (the <look>) look/VBD <mood>)
I have! now <take/VBN> <thing> npadvmod=(@CARDINAL({two|three|four}) times)
I can not {remember/VB|recall/VB} (the last/JJ time relcl=((a <work_noun>) <grip/VBD> me advmod=(so much/RB)))
no/UH , this be! not (a <~adj> <work_noun>)
yes/UH , (the rumors) be! true : parataxis=(<thing> be! (<degree> <adj>))
there be! attr=(@CARDINAL(two) kinds of(<works>)) , and conj=(this be! (the <mood> kind))
there be! attr=(much/JJ xcomp=(to *<love/VB>)) in(<thing>)
in(@DATE(<few> years)) , (nothing) have! <grip/VBN> me like(<thing>)
m: I {see/VBD|watch/VBD} <thing> {on(a plane) <when>|on(a rainy night)|at(a festival)|with(my <giver>)}
b: I {read/VBD|finish/VBD} <thing> {on(a train) <when>|on(a rainy night)|in(@TIME(one night))|at(the beach) <when>}
m: I {rent/VBD|watch/VBD} <thing> advcl=(because/IN <actor> be/VBD in(it))
b: I {borrow/VBD|read/VBD} <thing> advcl=(because/IN (my <giver>) <love!> <maker>)
<work> {open!|begin!|start!} with(a {quiet|strange|long|violent} {<event>|dream|journey|silence})
<work> be! {(a <genre> about(<value>))|(a <mood> <genre>)}
(most <works>) <~shine!> , but conj=((this one/NN) <shine!>)
(this <work_noun>) {need!|deserve!} (no introduction/NN)
(this <work_noun>) be! (<better> than(<other>))
m: I {go/VBD|come/VBD} to(the cinema/NN) for(<thing>) <when>
b: I {find/VBD|buy/VBD} <thing> in(a {bookshop/NN|library}) {<when>|in(<elsewhere>)}
"""

PLOT = """
(the {story|plot}) follow! <hero> {through(a long <season>)|to(<elsewhere>)|through(a <event>)}
(the story) begin! advcl=(when <hero> {find! (a <find>) in(<spot>)|return! to(<place>)|lose! (<his> job)})
<hero> return! to(<place>) {for(the funeral of(<his> <relative>))|after(@DATE(<few> years) in(prison))|with(nothing)}
<hero> find! (a <find>) {in(<spot>)|under(the {floor|bed|bridge})} and conj=(begin! xcomp=(to *ask/VB (questions)))
<hero> leave! <place> and conj=(move! to(<elsewhere> , relcl=(where nobody know! (<his> name))))
<hero> inherit! (a {farm|hotel|castle|shop} in(<elsewhere>)) and conj=(try! xcomp=(to *{run/VB|sell/VB|save/VB} it))
<hero> fall! in(love) with(<friend> , relcl=(who {hide!|keep!} (a secret about(the <event>))))
<hero> must leave/VB <place> advcl=(before/IN (the police/NNS) find! <him>)
(<hero> and conj=<friend>) {spend! @DATE(the <season>) in(<elsewhere>)|plan! (a robbery)} together
(<hero> and conj=<friend>) {hide!|live!|work!} in(a {hotel|church|castle|cellar/NN})
<hero> do! n't trust/VB <friend> , and conj=((the feeling) be! mutual/JJ)
<hero> {lose!|quit!} (<his> job) and conj=({drive!|walk!|run!} to(<elsewhere>) with(a stolen/JJ {car|suitcase|piano}))
<hero> {want!|need!|hope!} xcomp=(to *{save/VB (the farm)|find/VB (<his> <relative>)|forget/VB (the war)|go/VB home})
<hero> have! @DATE(<few> days) xcomp=(to *{find/VB <friend>|pay/VB (the debt)|save/VB <place>|solve/VB (the case)})
<hero> grow! up/RP in(<place>) and conj=({dream!|think!} only of({escape|money|(the sea)|love}))
<hero> {learn!|discover!} ccomp=(that/IN <friend> {be! alive|have! lie/VBN|be! (a thief)|start/VBD (the fire)})
<hero> {write!|send!} (letters) to(<friend>) , but conj=((no answer) come!)
<hero> take! (a job) in(a {school|hospital|hotel|prison|church|bank}) and conj=(meet! <friend>)
<hero> rent! (a room) near(<place>) and conj=({meet!|watch!} <friend>)
<friend> {arrive! in(<place>)|come! back} and conj=(ask! <hero> for({help|money|(the truth)}))
<friend> know! (the truth about(the <event>)) , but conj=(<she> wo n't {talk/VB|tell/VB <hero>})
<friend> {die!|vanish!|disappear!} , and conj=(<hero> {have! xcomp=(to *find/VB (out))|get! (the blame)|'be! alone})
nsubjpass=<hero> auxpass=be! {blame/VBN for(the <crime>)|send/VBN to(<elsewhere>)}
nsubjpass=<hero> auxpass=be! force/VBN xcomp=(to *{leave/VB <place>|sell/VB (the farm)|choose/VB (a side)})
nsubjpass=<friend> auxpass=be! {arrest/VBN|kill/VBN|hurt/VBN} {in(<place>)|during(the <disaster>)}
advcl=(when (a <disaster>) {destroy!|divide!|change!} <place>) , <hero> {have! xcomp=(to *choose/VB (a side))|go! home}
advcl=(when <friend> {vanish!|die!|leave!}) , <hero> {search!|cross!} {(the whole country)|(the city)|<place>}
advcl=(while/IN (the town) {sleep!|celebrate!|watch!}) , <hero> {steal! (a <find>)|burn! (the papers)|run! away}
advcl=(set/VBN in(<place>)) , (the story) {follow! <hero>|cover! @DATE(<few> years)|center! on(<hero>)}
#: advcl=(set/VBN in(<place>) in(<story_year>)) , <work> {follow!|introduce!} <hero>
#: in(<story_year>) , <hero> {arrive! in(<place>)|leave! <place> for(<elsewhere>)|meet! <friend> in(<elsewhere>)}
#>: by(<story_year>) , <hero> {own! (@CARDINAL(<few>) <shops>)|have! leave/VBN <place>|live! in(<elsewhere>) with(<friend>)}
#: <hero> {travel!|sail!|drive!} from(<place>) to(<elsewhere>) with(<friend>)
#: (<full_friend> , (a {rival|lawyer|cousin} from(<elsewhere>)) ,) {follow!|hire!|betray!} <hero>
#>: advmod=@DATE(npadvmod=(<few> years) *later) , <hero> {meet! <friend> in(<elsewhere>)|return! to(<place>)}
m#: <actor> play! <hero>
#: <hero> {steal!|burn!|find!} (@CARDINAL(<num>) {letters|photographs|pictures}) in(<abroad>)
#: (the trail) lead! from(<place>) to(<elsewhere> , relcl=(where <friend> {wait!|hide!|die!}))
there be! attr=(a <event> , conj=(a <find> and conj=(a {secret|stranger|long journey})))
in(<elsewhere>) , <hero> {meet! <friend>|find! work|wait! for(<friend>)|hide! (the <find>)}
after(the <event>) , <hero> {return! to(<place>)|stop! xcomp=(talk/VBG)|wake! up alone|run! away}
for(@DATE(<few> years)) , <hero> have! wait/VBN for(<friend>)
imagine/VB (a {world|town|city|life} {without(<value>)|amod=(full of({secrets|strangers|ghosts}))})
can/MD <hero> *{forgive/VB <friend>|save/VB <place>|trust/VB <friend>|forget/VB (the <event>)} ?
who {know! (the truth)|start/VBD (the fire)|have! (the <find>)|can trust/VB <hero>} ?
there be! attr=(a <find>) in(<spot>) , and conj=(<hero> want! it)
nobody {believe!|help!|trust!} <hero> , conj=(not even <his> <relative>)
nobody in(<place>) {believe!|remember!|trust!} <hero>
nobody {know!|ask!} ccomp=(advmod=why/WRB <hero> {leave/VBD|come/VBD back|lie/VBD})
csubj=(dobj=what/WP <hero> do! n't know/VB) be! ccomp=(that/IN <friend> {lie/VBD|be! (the thief)|be! dead})
(the <event>) {change! everything|bring! <hero> home|divide! (the family)|ruin! <friend>}
(the real {subject|theme}) be! <value> , and conj=(<friend> {pay!|suffer!} for(it))
(a stranger) {arrive!|appear!} {with(a <find>)|at(@TIME(midnight))} , and conj=(<hero> {lie!|open! (the door)})
~: (the main character) {have! (a secret)|want! (a new life)|leave! home|go! through(a lot)|make! (a choice)}
~: <he> {lose! everything|learn! (a lesson)|find! love|change! (<his> life)} and conj=({move! on|go! home|start! again})
~: (two people/NNS) {meet!|fall! in(love)|fight!} , and conj=(things {go! wrong|get! complicated|change!})
~: it be! (a story {about(<value>)|of(love and conj=<value>)|about((the price of(<value>)))})
~: <he> {try!|want!|learn!} xcomp=(to *{forgive/VB|forget/VB|help/VB} (<his> <relative>))
~: (the {past|truth}) {come! back|catch! up} , and conj=(nobody 'be! safe)
"""

OPINION = """
(the <aspect>) be! (%<degree> <fit>)
(the <aspect>) be! (<degree> <fit>) , and conj=((the <aspect>) be! <fit>)
(the <aspect>) be! <fit> , and conj=((the <aspect>) <shine!> %too)
(the <aspect>) be! <fit> , but conj=((the <aspect>) be! <~fit>)
(the <aspect>) be! n't <~fit>
(the <aspect>) be! (not <~fit> but conj=<fit>)
(the <detail>) be! never <~fit>
(the <aspect>) {seem!|feel!|look!|remain!} (%<degree> <fit>)
(the <aspect>) <shine!> from(start) to(end)
(the <detail>) <shine!> {in(the second half)|in(the {final|opening} <parts>)|in(nearly every <part>)}
(the <detail>) <grip!> me {at(every turn)|again|from(the start)|in(the <part> with(the {dog|storm|letter|boat}))}
(the <detail> in(the {final|opening} <parts>)) be! <fit>
(the <aspect>) , however , be! <fit>
(the <aspect>) alone <lift!> (the <work_noun>)
<aspect_of> be! (%<degree> <fit>)
(the <detail>) {remain!|feel!|seem!} <fit> {in(every <part>)|to(the end)|to(the last <part>)}
I {find!|call!} ccomp=(nsubj=(the <aspect>) *(%<degree> <fit>))
I {think!|feel!|believe!} ccomp=((the <aspect>) be! (%<degree> <fit>))
I <love!> {(the <aspect>)|<aspect_of>|(the <detail> in(the {final|opening} <parts>))}
I <love!> it advcl=(because/IN (the <aspect>) {<grip!> me|feel! <fit>|be! <fit>})
-: I do! n't <~love/VB> (the <aspect>)
-: I ca n't say/VB ccomp=(that/IN I <~love/VBD> (the <aspect>))
(*@CARDINAL(one) of(the <parts>)) be! <~adj> , but conj=((the rest) be! <adj>)
there be! attr=<virtue> in(every <part>)
there be! attr=(<virtue> but conj=(no <~virtue>)) in(it)
there be! n't attr=(much <~virtue>) , and conj=((the <aspect>) be! <fit>)
there be! attr=(<virtues> {in(every <part>)|(everywhere/RB)|from(start) to(end)})
(the <parts> {with(<lead>)|in(<place>)|about(<value>)}) be! (%<degree> <adj>)
(the <parts>) <shine!> , and conj=((the <aspect>) be! (<degree> <fit>))
(every <part>) {feel!|be!|seem!} (<mood> and conj=<mood>)
(some <parts>) be! <mood> , but conj=((the <aspect>) <~shine!>)
(the {first|second|opening} half) <shine!> , and conj=((the rest) {be!|feel!} <adj>)
(the middle/NN) <shine!> , and conj=((the <aspect>) {be!|feel!|stay!} <fit>)
advcl=(advmod=even though/IN (the <aspect>) be! <~fit>) , (the <aspect>) <shine!>
advcl=(because/IN (the <aspect>) be! <fit>) , (the {whole thing|story|<work_noun>}) <shine!>
advcl=(although/IN (the <aspect>) be! <~fit>) , I <love!> (the <aspect>)
{for(me)|in(my opinion)|to(my surprise)|at(times)} , (the <aspect>) be! (%<degree> <fit>)
<pause> , (the <aspect>) be! (%<degree> <fit>)
+: (the <aspect>) {deserve!|merit!} (<worth>)
-: (the <aspect>) {deserve!|merit!} (only <worth>)
~: (everything about(it)) {be!|feel!} (%<degree> <mood>)
~: (nothing about(it)) {be!|feel!} <~mood>
~: it be! (<mood> , conj=(<mood> and conj=<adj>))
~: (the <work_noun>) be! (%<degree> <adj>) , but conj=(it have! (its <~virtues>))
#: (the <parts> in(<place>)) {be! (%<degree> <adj>)|<shine!>}
#: (the <aspect> in(<title>)) be! (%<degree> <fit>)
#: (the <parts> in(<abroad> and conj=<abroad>)) {be! (%<degree> <adj>)|<shine!>}
#: (the <aspect>) be! <fit> , and conj=((the <parts> in(<abroad>)) <shine!>)
#: (<makers> <best> idea) be! xcomp=(to *move/VB <lead> from(<place>) to(<abroad>))
#: (the trip/NN from(<place>) to(<abroad>)) <grip!> me
#: advcl=(when <lead> {reach!|leave!} <abroad>) , (the <detail>) {become!|get!|feel!} <mood>
"""

PEOPLE = """
<maker> {handle!|treat!} (the <event>) <well>
<maker> {write!|handle!|treat!} (the {ending|romance|family|children/NNS}) <well>
<maker> {fill!|load!|pack!} {(every <part>)|(the <work_noun>)|(the {first|second} half)} with(<virtue>)
<maker> {be!|remain!} (a <adj> storyteller/NN)
(<full_maker> , relcl=(who {grow/VBD up|live!|work/VBD} in(<elsewhere>)) ,) handle! (the {story|plot|romance}) <well>
-: <maker> keep! xcomp=({repeat/VBG|explain/VBG|describe/VBG} (the same <parts>))
+: <maker> never {waste!|repeat!|rush!} (a <part>)
+: <maker> {trust!|respect!|understand!} <public>
-: <maker> do! n't {trust/VB|respect/VB|understand/VB} <public>
<maker> have! <make/VBN> (a <adj> <work_noun>) , and conj=(it show!)
nsubjpass=(the <parts> {in(<place>)|with(<lead>)|about(<value>)}) auxpass=be! <well> <make/VBN>
nsubjpass=(every <part>) auxpass=be! <well> {<make/VBN>|plan/VBN}
nsubjpass=(the {story|plot|ending}) auxpass=be! <well> {tell/VBN|build/VBN|explain/VBN}
<lead> be! (<degree> <mood>) , and conj=((the <aspect>) be! <fit>)
<lead> {be!|remain!} (a <mood> {figure|creation/NN})
I <love!> <lead> from(the {first|opening} <part>)
I {care/VBD|worry/VBD} about(<lead>) to(the end)
m: <actor> be! (%<degree> <able>)
m: <actor> be! <able> as(<lead>)
m: <actor> {play! (the part)|act!|speak!|sing!} <well>
m: <actor> be! <able> , but conj=((the rest of(the cast)) be! <~able>)
m: {as(<lead>)|in(the main part)|in(the best <parts>)} , <actor> be! (%<degree> <able>)
m: (no one/NN) {play! (a <job>)|cry!|smile!|lie!} like(<actor>)
m+: I never {like/VBD|trust/VBD} <actor> , but conj=(here (the performance) be! <able>)
m-: I always {like/VBD|trust/VBD} <actor> , but conj=(here (the performance) be! <able>)
m#: (<actor> and conj=(the {children|dog|villain})) <shine!> together
m: (the camera) {love! <actor>|stay! on(the faces)|move! <well>|never rest!}
m: (the {two|three|young} {leads|stars|actors}) {<shine!> together|be! (%<degree> <able>)}
b: (the {voice|hero|heroine}) be! (%<degree> <mood>)
b: <maker> describe! <place> <well>
b: <maker> {describe!|paint!|draw!} {<place>|(the <season>)|(the sea)|(the town)} <well>
b+: (the words) {sing!|flow!|dance!} on(every page)
m#: (<full_actor> , relcl=(who be/VBD <able> in(<other_title>)) ,) be! <able> as(<lead>)
m#: (<actor> and conj=<guest>) <shine!> in(<abroad>)
m#: <maker> {meet/VBD|find/VBD} <actor> in(<abroad>) in(<work_year>) , and conj=((the {choice|gamble/NN}) <shine!>)
b#: <maker> <make/VBD> (the <parts> {with(<lead>)|about(<place>)}) in(<abroad>) , and conj=(it show!)
b#: <maker> {dedicate/VBD|read/VBD} <title> to(<guest>) in(<year>)
b#: (<guest> , relcl=(who {translate/VBD|edit/VBD} <other_title>) ,) do! (a <adj> job) here
#: <maker> <shine!> in(<title>) like(<guest> in(<other_title>))
#: <maker> {study/VBD with(<guest>) in(<abroad>)|learn/VBD (everything) from(<guest>)} , and conj=(it show!)
"""

PERSONAL = """
I <react/VBD> {twice|at(the end)|at(the {wedding|twist|farewell|funeral})|in(every <part>)|npadvmod=(a lot)}
I <react/VBD> npadvmod=(nummod=@CARDINAL(advmod=(advmod=at/IN least/JJS) {two|three|five|ten}) times)
I {feel/VBD|be/VBD} acomp=({very|really|quite|so} <glad>) {at(the end)|after(<extent>)}
I be! <glad> ccomp=(that/IN I {buy/VBD|finish/VBD|try/VBD|find/VBD} it)
(my <giver>) {<react/VBD> at(the end)|<love/VBD> it|<love/VBD> (every <part>)}
(my <giver>) <love/VBD> it , and conj=(I {agree!|can see/VB advmod=why/WRB})
it <grip/VBD> me {from(the start)|for(@DATE(<few> days))|(again and conj=again)|(more than(any other <work_noun>))}
+: I could n't {stop/VB xcomp=(think/VBG about(it))|wait/VB for((the next <part>))|look/VB away}
+: I {forget/VBD (the time)|miss/VBD (my {bus|stop|train})|want/VBD dobj=more/JJR|tell/VBD (all/PDT my friends)}
+: I 'be! still {think/VBG|dream/VBG} about(<lead>)
+: it {stay! with(me)|make! ccomp=(nsubj=me smile/VB)|make! ccomp=(nsubj=me cry/VB)|bring! back (good memories)}
-: I {check/VBD|look/VBD at} (my {phone|watch}) {in(every <part>)|twice|after(<extent>)}
-: I {fall/VBD asleep|give/VBD up|lose/VBD interest|quit/VBD} after(<extent>)
-: I could n't {care/VB about(<lead>)|finish/VB it|wait/VB for(the end)|follow/VB (the plot)}
-: I {want! (my {money|time}) back|expect/VBD dobj=(much more/JJR)|skip/VBD (some <parts>)|feel/VBD nothing}
-: it {make! ccomp=(nsubj=me {yawn/VB|groan/VB|sigh/VB})|leave/VBD ccomp=(nsubj=me cold)|waste/VBD (my <season>)}
-: why do/VBD <maker> *make/VB it ?
how can/MD anyone *<~love/VB> {it|(the <aspect>)} ?
-: who {care!|<~love!> (such/PDT <virtue>)} ?
(so/RB many <virtues>) !
-: (no <~virtue> , conj=(no <~virtue> , conj=(no point)))
+: I {could|would} *<take/VB> it again
"""

COMPARISON = """
it be! (<better> than({<other>|(most <works>)}))
it be! (much/RB <better> than(<other>))
it be! (<better> advcl=(than/IN I {expect/VBD|hope/VBD|think/VBD}))
(the <aspect>) be! (<better> than(in({<other>|(most <works>)})))
<other> be! <~better>
I {know!|remember!|own!} <other> , but conj=(this be! <better>)
advcl=(compare/VBN to(<other>)) , it be! (a <gem>)
it remind! me of(<other>) , but conj=((the <aspect>) be! <better>)
(few <works>) have! (such/PDT <virtue>)
(no other <work_noun>) have! <grip/VBN> me advmod=(so much/RB)
(most <works>) {have! (more/JJR <~virtue>)|be! <~better>}
#: I {find/VBD|buy/VBD} <other_title> in(<year>) , and conj=(this be! <better>)
#: <maker> {make/VBD|finish/VBD} <other_title> in(<year>) , and conj=(this be! <better>)
#: {<title>|it} be! (<better> than(<other>)) , and conj=(<other> be! <adj>)
#: unlike({<other>|(most <works>)}) , it <shine!>
#: {(the people in(<abroad>))|<guest>} {call/VBD|find/VBD} ccomp=(nsubj=it *<adj>) in(<year>)
#: (<other_title> and conj=<other_title>) be! (<~better> than(<title>))
#: <maker> be! (<better> than(<guest>)) here
#: (<title> and conj=<other_title>) {share!|use!} (the same {ending|plot|idea}) , but conj=(<title> be! <better>)
"""

FACTS = """
#: <maker> {make/VBD|finish/VBD} it in(<elsewhere>) in(<work_year>)
#: <maker> {grow/VBD up|live/VBD} in(<elsewhere>)
#: it {win/VBD|earn/VBD} (@CARDINAL(<few>) {prizes|awards}) in(<elsewhere>) in(<work_year>)
#: <studio> {cut/VBD|change/VBD|reject/VBD} (the {final|opening} <part>) in(<work_year>)
#: <studio> {release/VBD|sell/VBD|announce/VBD} it in(@DATE(*<month> <plain_work_year>))
#: in(<year>) , <maker> {leave/VBD <studio>|move/VBD to(<elsewhere>)|marry/VBD <guest>|lose/VBD (a {brother|sister|son|friend})}
#: <place> look! like(<abroad> in(<story_year>))
m: it {run! for(<hours>)|last! <hours>}
m: it be! (a compound=@TIME({two|three} -/HYPH hour) <genre>)
b: it be! (a compound=(@CARDINAL(<big>) -/HYPH page) <genre>)
b: it {have!|fill!} (@CARDINAL(<big>) pages)
~: (the {cover|title}) {say!|reveal!} nothing about(the story)
~: (someone) {make/VBD|sell/VBD} it as(a <genre>)
"""

VERDICT = """
+: (highly recommend/VBN)
m+: see/VB it {soon|twice|now}
b+: read/VB it {soon|twice|now}
+: do/VB n't miss/VB {it|(this one/NN)}
+: find/VB (a {copy|seat|quiet evening}) and conj=(enjoy/VB it)
+: it deserve! {(a wide audience)|(a second look)|(every prize)|(its fame)|(a sequel)}
+: I would {recommend/VB|give/VB} it to({anyone|everyone|(my {mother|father|friends|neighbors})})
+: I ca n't wait/VB for(the next one/NN)
+: I will {remember/VB|keep/VB|treasure/VB} it for(@DATE(years))
+: (every minute) be! worth(it)
+: {give/VB dative=it (a {chance|try})|tell/VB (your friends)}
-: {skip/VB|avoid/VB|forget/VB} {it|(this one/NN)}
-: save/VB (your {money|time|evening})
-: do/VB n't {waste/VB (your {money|time|weekend})|bother/VB|believe/VB (the <look>)|fall/VB for(the <look>)}
-: {stay/VB|keep/VB|run/VB} away/RB from(it)
-: I would not recommend/VB it to({anyone|(my worst enemy)|(my {boss|cousin|neighbors})})
-: I want! (my {money|time|evening}) back
-: life be! (too short for(this))
-: <maker> {should|must|can} do/VB better/RBR
-: {choose/VB|pick/VB|try/VB} {something|anything} else/RB
-: it deserve! {(no sequel)|(no second look)|(its bad name)|(a quiet death)}
{overall|in(the end)} , it be! (a <gem>)
{in(the end)|for(me)} , <title> <shine!>
{overall|honestly|surprisingly} , *(a <adj> <work_noun>)
(a <adj> <work_noun> with(<virtue>))
+: (a amod=(well -/HYPH <make/VBN>) <work_noun>)
-: (a amod=(badly -/HYPH <make/VBN>) <work_noun> {with(no <~virtue>)|about(nothing)})
a {<mood> and conj=<adj>|%<degree> <adj>} *<work_noun>
it be! (a <gem> {for(<public>)|from(start) to(end)|in(every way)|of(the <best> kind)})
<score>
I give! dative=it <score>
(my {rating|vote|score}) : appos=<score>
#: <title> be! (a <gem>)
#: <maker> {have! <make/VBN> (a <adj> <work_noun>)|<shine!>} , and conj=(<title> {show!|prove!} it)
#: <score> for(<title>)
m#: <score> for(<maker> and conj=<actor>)
+#: everyone in(<abroad>) should <take/VB> <title>
-#: nobody in(<abroad>) should <take/VB> <title>
+#: <abroad> {need!|deserve!} (more/JJR <works>) like(<title>)
-#: I {prefer!|recommend!} <other_title> by(<guest>)
+#: I {place!|put!} <title> above(<other_title>)
+#: <guest> could not have/VB do/VBN it better/RBR
-#: <guest> would have/VB do/VBN it better/RBR
+#: {choose/VB|try/VB|find/VB} <title> , conj=(not <other_title>)
-#: {choose/VB|try/VB|find/VB} <other_title> , conj=(not <title>)
#: <title> be! (the <best> <work_noun> about(<abroad>) since(<year>))
#: <guest> <love/VBD> it in(<abroad>) , and conj=(I agree!)
#: (<guest> and conj=I) <love/VBD> <title>
what/WDT a <gem> !
I <love/VBD> it !
I <happily> <take/VBD> (the last <part>)
I would <happily> {recommend/VB it|try/VB (the sequel)|do/VB it again}
#: (fans of(<other_title>)) will <love/VB> it
(most <public>) {will|might|should} <love/VB> it
"""
SENTENCES = {
    "opening": OPENING,
    "plot": PLOT,
    "opinion": OPINION,
    "people": PEOPLE,
    "personal": PERSONAL,
    "comparison": COMPARISON,
    "facts": FACTS,
    "verdict": VERDICT,
}

# Phrases that sentences share, by the slot that names them.
PHRASES = {
    "when": """
{npadvmod=@DATE(last {week|month|summer|winter})|npadvmod=@DATE(yesterday/NN)|recently/RB}
@DATE(npadvmod=(<few> {years|weeks}) *ago)
#: in(<year>)
#: in(@DATE(*<month> <plain_year>))
#: in(@DATE(the <decade>))
~: {recently/RB|npadvmod=@DATE(yesterday/NN)}
""",
    "span": """
m: @TIME(<few> {hours|evenings})
b: @DATE(<few> {days|weeks|months})
~: {@DATE(a {week|month})|forever/RB}
""",
    "hours": """
@TIME({two|three|four} hours)
@TIME({two|three} hours and conj=({ten|twenty|forty|fifty} minutes))
""",
    "extent": """
m: @TIME(<num> minutes)
b: (@CARDINAL(<num>) pages)
m: @TIME({two|three} hours)
b: (@CARDINAL({two|three|five|ten|twelve}) chapters)
~: (the opening <part>)
~: (a few <parts>)
""",
    "spot": """
(the {attic/NN|river|garden|kitchen|cellar/NN|church|library|snow|woods/NNS|hotel})
""",
    "hero_description": """
(a <trait> <hero_job>)
(a <hero_job> from(<elsewhere>))
(a <hero_job> with(a {secret|past|debt|plan/NN}))
(a <hero_job> relcl=(who {trust! nobody|hate! (the sea)|ca n't sleep/VB|have! lose/VBN everything|fear! (the dark/NN)}))
(a <trait> <hero_job> from(<elsewhere>))
""",
    "other_unnamed": """
(the {original|first <work_noun>})
""",
    "elsewhere_unnamed": """
(the {capital|city|country})
(another {town|country})
""",
    "lead_unnamed": """
(the {main character|<hero_noun>})
""",
    "score": """
@CARDINAL(*<points> out(of(10/CD)))
""",
    "shops": """
{shops|houses|boats|farms|hotels|cars}
""",
}
