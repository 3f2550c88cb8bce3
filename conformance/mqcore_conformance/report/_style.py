"""Look and behaviour of ``report.html``: one style sheet, one small script. The page works without the script."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#1d1f23;--dim:#676c75;--line:#d9dce1;--panel:#f6f7f9;--link:#1653a5;
--pass:#d7f0db;--fail:#f7c5c1;--late:#fbd8a6;--error:#e3c8f2;--unsure:#fdf0b0;--none:#f0f1f3;--known:#dfe5f5}
@media (prefers-color-scheme:dark){:root{--ground:#16181c;--text:#e4e6ea;--dim:#969ca6;--line:#363a42;--panel:#1f2228;
--link:#8ab8f5;--pass:#1d4427;--fail:#7a2521;--late:#6e4712;--error:#573070;--unsure:#5a4f12;--none:#24272d;--known:#2c3858}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:110rem;padding:1rem 1.5rem 4rem;color:var(--text);
background:var(--ground)}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.4rem 0 .4rem}
a{color:var(--link)}p{margin:.4rem 0}.dim{color:var(--dim)}.wide{overflow-x:auto}
.grid table{font-size:12px;width:100%;table-layout:fixed}.grid th,.grid td{overflow-wrap:anywhere}
.grid th:first-child{width:13em}.grid th:nth-child(2),.grid th:nth-child(3){width:6em}.grid th{padding:.2rem .3rem}
.grid td.s a,.grid td.s span{white-space:normal;padding:.2rem .15rem;overflow-wrap:normal}
details{display:inline}summary{display:inline-block}
table{border-collapse:collapse}th,td{border:1px solid var(--line);padding:.2rem .45rem;text-align:left;
vertical-align:top}
th{background:var(--panel);font-weight:600}thead th{position:sticky;top:0}
td.s{padding:0;text-align:center;vertical-align:middle}td.s a,td.s span{display:block;padding:.25rem .5rem;
color:inherit;text-decoration:none;white-space:nowrap}td.s a:hover{text-decoration:underline}
a:focus-visible,summary:focus-visible{outline:3px solid var(--link);outline-offset:-2px}section{outline:none}
.chip{display:inline-block;border-radius:.3rem;padding:.05rem .5rem;margin:.1rem .15rem .1rem 0;text-decoration:none;
color:inherit}
.PASS{background:var(--pass)}
.PASS_PART{background:repeating-linear-gradient(135deg,var(--pass) 0 7px,var(--none) 7px 9px)}
.FAIL,.XPASS{background:var(--fail);font-weight:600}
.LIVENESS{background:var(--late);font-weight:600}.ERROR{background:var(--error);font-weight:600}
.INCONCLUSIVE{background:var(--unsure)}.NOT_RUN,.NOT_CLAIMED,.NOT_BUILT{background:var(--none);color:var(--dim)}
.XFAIL{background:var(--known)}
section.detail{display:none}
section.detail:target{display:block;position:fixed;top:0;right:0;bottom:0;width:min(64rem,100%);overflow:auto;
padding:1rem 1.5rem 3rem;background:var(--ground);border-left:1px solid var(--line);box-shadow:0 0 3rem #0005;z-index:2}
.close{float:right;padding:.2rem .8rem;border:1px solid var(--line);border-radius:.3rem;text-decoration:none}
pre,code{font:13px/1.45 ui-monospace,monospace}code{background:var(--panel);padding:.05rem .3rem;border-radius:.2rem;
overflow-wrap:anywhere}
pre{background:var(--panel);padding:.6rem .8rem;overflow-x:auto;margin:.4rem 0;max-height:30rem}
.seen{border-left:4px solid var(--fail);padding:.1rem .8rem;margin:.5rem 0;overflow-wrap:anywhere}
.timeline td{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.timeline td:nth-child(-n+3){white-space:nowrap}
.timeline tr.fault{background:var(--late)}.timeline tr.marked{background:var(--fail);font-weight:600}
.timeline tr.gap td{color:var(--dim);text-align:center}
.witnesses{columns:16rem;padding:0;margin:.3rem 0;list-style:none;font-size:13px}
summary{cursor:pointer;padding:.2rem 0}
@media print{section.detail{display:block}section.detail:target{position:static;width:auto;box-shadow:none}}
"""

SCRIPT = """
(function(){
var last=null;
function shown(){return location.hash.length>1?document.getElementById(decodeURIComponent(location.hash.slice(1))):null}
function show(){var s=shown();if(s&&s.classList.contains('detail')){s.focus({preventScroll:true});s.scrollTop=0}}
addEventListener('hashchange',show);
addEventListener('click',function(e){var a=e.target.closest('td.s a');if(a)last=a});
addEventListener('keydown',function(e){
if(e.key==='Escape'&&shown()&&shown().classList.contains('detail')){
location.hash='#grid';if(last)last.focus();return}
var a=document.activeElement;if(!a||!a.closest)return;var d=a.closest('td.s');if(!d||a.tagName!=='A')return;
var r=d.parentNode,i=d.cellIndex,n=null;
if(e.key==='ArrowRight'||e.key==='ArrowLeft'){n=d;
do{n=e.key==='ArrowRight'?n.nextElementSibling:n.previousElementSibling}
while(n&&!n.querySelector('a'))}
else if(e.key==='ArrowDown'||e.key==='ArrowUp'){do{r=e.key==='ArrowDown'?r.nextElementSibling:r.previousElementSibling;
n=r?r.cells[i]:null}while(r&&!(n&&n.querySelector('a')))}else return;
if(n){n.querySelector('a').focus();e.preventDefault()}});
show();
})();
"""
