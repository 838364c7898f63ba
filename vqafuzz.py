import json,random,re,copy,sys
sys.path.insert(0,'/work/main')
from bridge.scoring import vqav2,gqa,pope
con=json.load(open('/work/shared/vqa_contractions.json'))
print(len(con), type(con), list(con)[:5])
con = con.get('contractions',con)
print(len(con), sum(k==v for k,v in con.items()), [k for k in con if k not in vqav2.CONTRACTIONS], {k:v for k,v in vqav2.CONTRACTIONS.items() if con.get(k)!=v})
P=[';','/','[',']','"','{','}','(',')','=','+','\\','_','-','>','<','@','`',',','?','!']
MAN={'none':'0','zero':'0','one':'1','two':'2','three':'3','four':'4','five':'5','six':'6','seven':'7','eight':'8','nine':'9','ten':'10'}
per=re.compile(r"(?!<=\d)(\.)(?!\d)"); com=re.compile(r"(\d)(,)(\d)")
def pp(t):
    o=t
    for p in P:
        if (p+' ' in t or ' '+p in t) or re.search(com,t)!=None: o=o.replace(p,'')
        else: o=o.replace(p,' ')
    return per.sub("",o,re.UNICODE)
def pd(t):
    out=[]
    for w in t.lower().split():
        w=MAN.get(w,w)
        if w not in ['a','an','the']: out.append(w)
    for i,w in enumerate(out):
        if w in con: out[i]=con[w]
    return ' '.join(out)
s0=lambda s:s.replace('\n',' ').replace('\t',' ').strip()
def q(answers,pred):
    g=copy.deepcopy(answers); pred=s0(pred)
    for a in g:a['answer']=s0(a['answer'])
    if len(set(a['answer'] for a in g))>1:
        for a in g:a['answer']=pd(pp(a['answer']))
        pred=pd(pp(pred))
    acc=[]
    for d in g:
        o=[i for i in g if i!=d]; m=[i for i in o if i['answer']==pred]
        acc.append(min(1,float(len(m))/3))
    return float(sum(acc))/len(acc)
random.seed(1)
words=list(con)+list(con.values())+list(MAN)+['a','an','the','A','The','An','yes','Yes','no','1,000','1,a','5-10','3.5','.5','u.s.','a.b','a,b','let\'s','NONE','Ten','\u00a0','\u2003','1,,000','Im','im',"I'dve",'....'*10,'x'*3,'İ','Σ','١,٢','４,５','\u200b','\r','\x0b','\u2028']
def rs():
    n=random.randint(0,4); t=''
    for _ in range(n):
        t+=random.choice(words)+random.choice(['',' ','\n','\t','  ',*P,'.',"'",':','%'])
        if random.random()<.3:t+=random.choice(P)
    return t
bad=0
for i in range(60000):
    t=rs()
    if pd(pp(s0(t)))!=vqav2.normalise_answer(t):
        bad+=1
        if bad<5: print(repr(t),repr(pd(pp(s0(t)))),repr(vqav2.normalise_answer(t)))
print('norm bad',bad)
bad=0
for i in range(400):
    anns=[];preds=[];exp={}
    for k in range(10):
        pool=[rs() for _ in range(random.choice([1,1,2,3]))]
        if random.random()<.3: pool+=[pool[0].upper()]
        n=random.choice([10,10,1,2,5])
        wid=random.random()<.7
        a=[{'answer':random.choice(pool),'answer_confidence':random.choice(['yes','maybe','no']),**({'answer_id':j+1} if wid else {})} for j in range(n)]
        anns.append({'question_id':k,'image_id':1,'question_type':random.choice(['what','is']),'answer_type':random.choice(['yes/no','number','other']),'answers':a,'multiple_choice_answer':'x'})
        p=random.choice(pool+[rs()]); preds.append({'question_id':k,'answer':p}); exp[str(k)]=q(a,p)
    r=vqav2.score(None,{'annotations':anns},preds)
    ok=r['per_question']=={k:round(100*v,2) for k,v in exp.items()} and r['overall']==round(100*float(sum(exp.values()))/10,2)
    for key,name in (('answer_type','per_answer_type'),('question_type','per_question_type')):
        gr={}
        for a in anns: gr.setdefault(a[key],[]).append(exp[str(a['question_id'])])
        ok&= r[name]=={k:round(100*float(sum(v))/len(v),2) for k,v in gr.items()}
    bad+=not ok
print('score bad',bad)
# llava processor
MC=re.compile(r"(?<=\d)(\,)+(?=\d)")
def llava(t):
    t=t.lower().replace(',','').replace('?','').replace("'s"," 's").strip()
    t=t.replace('\n',' ').replace('\t',' ').strip()
    o=t
    for p in P:
        if (p+' ' in t or ' '+p in t) or re.search(MC,t)!=None: o=o.replace(p,'')
        else: o=o.replace(p,' ')
    return pd(per.sub("",o,re.UNICODE))
print('llava bad',sum(llava(t)!=vqav2.process_as_llava(t) for t in (rs() for _ in range(30000))))
def yn(text):
    if text.find('.')!=-1: text=text.split('.')[0]
    text=text.replace(',',''); w=text.split(' ')
    return 'no' if 'No' in w or 'not' in w or 'no' in w else 'yes'
W=['No','no','not','NO','Not','yes','Yes',',','.','!','\n','\t',' ','nope','\u00a0',"isn't"]
print('yn bad',sum(yn(t)!=pope.parse_yes_no(t) for t in (''.join(random.choice(W) for _ in range(random.randint(0,6))) for _ in range(50000))))
